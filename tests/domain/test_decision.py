"""decision_id: what it carries comes back exactly, and nothing but what was signed is opened."""

import itertools
import math
import string
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decisions import decided
from multiarm.domain.allocation import Share
from multiarm.domain.arm import Arm
from multiarm.domain.decision import CLAIMS, KEY_BYTES, TOKEN_LENGTH, UNIQUE, Claims, DecisionSigner
from multiarm.domain.errors import InvalidDecision

KEY = bytes(range(KEY_BYTES))
OTHER_KEY = bytes(KEY_BYTES)
ALPHABET = string.ascii_letters + string.digits + "-_"

SIGNER = DecisionSigner({1: KEY}, current=1)


def sign(signer: DecisionSigner, *claims: Any) -> tuple[str, bytes]:
    """(decision_id, its unique number)."""
    uid, arm_number, epoch, time, propensity = claims
    share = Share(Arm(arm_number, "red"), propensity, 0.0)
    decision = decided(signer, share, uid=uid, epoch=epoch, at=time)[0]
    return decision.decision_id, decision.unique


TOKEN, MARK = sign(SIGNER, -5, 3, 2, 1.7e9, 0.1)


def refused(token: str, signer: DecisionSigner = SIGNER) -> bool:
    try:
        signer.open(token)
    except InvalidDecision:
        return True
    return False


def signed_by_hand(version: int = 1, key_number: int = 1, key: bytes = KEY, person: bytes = b"decision") -> str:
    """The format once more, written independently of the code: it must not change within a version."""
    body = struct.pack(">BHq", version, key_number, -5)
    body += struct.pack(">IIdd", 3, 2, 1.7e9, 0.1)
    body += struct.pack(">QQH", 11, 22, 0)
    tag = blake2b(body, key=key, digest_size=16, person=person).digest()
    return urlsafe_b64encode(body + tag).decode()


class TestRoundTrip:
    @settings(deadline=None, derandomize=True)
    @given(
        uid=st.integers(-(2**63), 2**63 - 1),
        arm_number=st.integers(0, 2**32 - 1),
        epoch=st.integers(0, 2**32 - 1),
        time=st.floats(allow_nan=False),
        propensity=st.floats(0, 1),
    )
    def test_every_claim_comes_back_exactly(
        self, uid: int, arm_number: int, epoch: int, time: float, propensity: float
    ) -> None:
        token, unique = sign(SIGNER, uid, arm_number, epoch, time, propensity)
        assert SIGNER.open(token) == Claims(uid, arm_number, epoch, time, propensity, unique)

    @pytest.mark.parametrize(
        "propensity", [1 / 3, 0.1 + 0.2, 5e-324, math.nextafter(1.0, 0.0), math.nextafter(0.5, 1.0)]
    )
    def test_a_propensity_keeps_all_its_64_bits(self, propensity: float) -> None:
        token, _ = sign(SIGNER, 1, 1, 0, 0.0, propensity)
        assert SIGNER.open(token).propensity.hex() == propensity.hex()

    @pytest.mark.parametrize("uid", [-(2**63), -1, 0, 2**63 - 1])
    def test_a_uid_is_64_bits_with_a_sign(self, uid: int) -> None:
        assert SIGNER.open(sign(SIGNER, uid, 1, 0, 0.0, 1.0)[0]).uid == uid

    def test_the_token_is_of_fixed_length_and_safe_in_a_path(self) -> None:
        assert len(TOKEN) == TOKEN_LENGTH
        assert set(TOKEN) <= set(ALPHABET)

    def test_opening_twice_gives_the_same_and_leaves_the_signer_usable(self) -> None:
        assert SIGNER.open(TOKEN) == SIGNER.open(TOKEN) == Claims(-5, 3, 2, 1.7e9, 0.1, MARK)


class TestFormat:
    def test_many_claims_unpack_at_once_to_the_same(self) -> None:
        shares = [Share(Arm(3, "red"), uid / 7, 0.0) for uid in range(1, 5)]
        packed = [SIGNER.sign(uid, 2, 1.7e9 + uid, [share])[1] for uid, share in enumerate(shares, 1)]
        claims = np.frombuffer(b"".join(packed), CLAIMS)
        assert claims["uid"].tolist() == [1, 2, 3, 4]
        assert claims["arm_number"].tolist() == [3] * 4
        assert claims["epoch"].tolist() == [2] * 4
        assert claims["time"].tolist() == [1.7e9 + uid for uid in range(1, 5)]
        assert claims["propensity"].tolist() == [uid / 7 for uid in range(1, 5)]
        assert [bytes(unique) for unique in claims["unique"]] == [one[UNIQUE] for one in packed]

    def test_unique_numbers_of_a_process_sort_in_order_of_issue(self) -> None:
        """Rewards are found by them: neighbours in time must be neighbours in the index."""
        signer = DecisionSigner.random()
        uniques = [sign(signer, 1, 1, 0, 0.0, 1.0)[1] for _ in range(1_000)]
        assert uniques == sorted(uniques)

    def test_a_token_made_by_hand_opens(self) -> None:
        unique = struct.pack(">QQ", 11, 22)
        assert SIGNER.open(signed_by_hand()) == Claims(-5, 3, 2, 1.7e9, 0.1, unique)

    @pytest.mark.parametrize("version", [0, 2, 255])
    def test_another_version_is_refused_though_well_signed(self, version: int) -> None:
        assert refused(signed_by_hand(version=version))

    def test_a_signature_made_for_another_purpose_is_refused(self) -> None:
        assert refused(signed_by_hand(person=b"session"))


class TestForgeries:
    def test_every_single_flipped_bit_is_refused(self) -> None:
        raw = urlsafe_b64decode(TOKEN)
        for position, bit in itertools.product(range(len(raw)), range(8)):
            forged = bytearray(raw)
            forged[position] ^= 1 << bit
            assert refused(urlsafe_b64encode(forged).decode()), (position, bit)

    def test_every_single_changed_letter_is_refused(self) -> None:
        for position in range(len(TOKEN)):
            for letter in set(ALPHABET) - {TOKEN[position]}:
                assert refused(TOKEN[:position] + letter + TOKEN[position + 1 :]), (position, letter)

    def test_every_letter_from_outside_the_alphabet_is_refused(self) -> None:
        for position, letter in itertools.product(range(len(TOKEN)), "=. \n\0%*é\u212a😀\ud800"):
            assert refused(TOKEN[:position] + letter + TOKEN[position + 1 :]), (position, letter)

    @pytest.mark.parametrize("length", range(TOKEN_LENGTH))
    def test_truncated_anywhere_is_refused(self, length: int) -> None:
        assert refused(TOKEN[:length])
        assert refused(TOKEN[TOKEN_LENGTH - length :] if length else "")

    @pytest.mark.parametrize("more", ["A", "=", "==", "====", "\n", " ", "AAAA", "\0", TOKEN], ids=len)
    def test_extended_is_refused(self, more: str) -> None:
        assert refused(TOKEN + more)
        assert refused(more + TOKEN)

    def test_shortened_and_filled_up_with_what_base64_skips_is_refused(self) -> None:
        for filler in ("====", "\n\n\n\n", "    ", "!!!!"):
            assert refused(TOKEN[:-4] + filler)
            assert refused(filler + TOKEN[4:])

    def test_the_tag_of_another_token_is_refused(self) -> None:
        mine = urlsafe_b64decode(TOKEN)
        theirs = urlsafe_b64decode(sign(SIGNER, -5, 3, 2, 1.7e9, 0.1)[0])
        assert refused(urlsafe_b64encode(mine[:-16] + theirs[-16:]).decode())

    def test_a_tag_of_zeros_is_refused(self) -> None:
        assert refused(urlsafe_b64encode(urlsafe_b64decode(TOKEN)[:-16] + bytes(16)).decode())

    @settings(deadline=None, derandomize=True, max_examples=300)
    @given(st.one_of(st.text(max_size=200), st.text(alphabet=ALPHABET, min_size=TOKEN_LENGTH, max_size=TOKEN_LENGTH)))
    def test_no_text_at_all_is_opened_or_raises_anything_else(self, text: str) -> None:
        assert refused(text)

    def test_other_spellings_of_the_same_bytes_are_refused_or_name_the_same_decision(self) -> None:
        tokens = [sign(SIGNER, uid, 1, 0, 1.7e9, 0.5)[0] for uid in range(-50, 50)]
        respelt = [token for token in tokens if "-" in token or "_" in token]
        assert respelt
        for token in respelt:
            other = token.replace("-", "+").replace("_", "/")
            assert refused(other) or SIGNER.open(other) == SIGNER.open(token)


class TestKeys:
    def test_another_key_of_the_same_number_is_refused(self) -> None:
        assert refused(TOKEN, DecisionSigner({1: OTHER_KEY}, current=1))

    def test_a_key_number_unknown_here_is_refused(self) -> None:
        assert refused(TOKEN, DecisionSigner({2: KEY}, current=2))

    def test_a_token_says_which_key_signed_it_and_only_that_one_verifies(self) -> None:
        both = DecisionSigner({1: KEY, 2: OTHER_KEY}, current=2)
        assert refused(signed_by_hand(key_number=2, key=KEY), both)
        assert not refused(signed_by_hand(key_number=2, key=OTHER_KEY), both)

    def test_after_a_rotation_old_tokens_verify_and_the_new_key_signs(self) -> None:
        rotated = DecisionSigner({1: KEY, 2: OTHER_KEY}, current=2)
        assert rotated.open(TOKEN) == SIGNER.open(TOKEN)
        token, _ = sign(rotated, 1, 1, 0, 0.0, 1.0)
        assert refused(token)
        assert not refused(token, DecisionSigner({2: OTHER_KEY}, current=2))

    def test_once_a_key_is_withdrawn_its_tokens_are_refused(self) -> None:
        assert refused(TOKEN, DecisionSigner({2: OTHER_KEY}, current=2))

    @pytest.mark.parametrize("number", [1, 256, 65_535])
    def test_key_numbers_reach_from_1_to_65535(self, number: int) -> None:
        signer = DecisionSigner({number: KEY}, current=number)
        assert not refused(sign(signer, 1, 1, 0, 0.0, 1.0)[0], signer)

    def test_random_signers_do_not_open_each_others_tokens(self) -> None:
        first, second = DecisionSigner.random(), DecisionSigner.random()
        token, _ = sign(first, 1, 1, 0, 0.0, 1.0)
        assert not refused(token, first)
        assert refused(token, second)


class TestUnique:
    def test_is_never_issued_twice_by_a_process(self) -> None:
        uniques = {sign(SIGNER, 1, 1, 0, 0.0, 1.0)[1] for _ in range(10_000)}
        assert len(uniques) == 10_000
        assert {len(unique) for unique in uniques} == {16}

    def test_nor_by_two_processes_with_the_same_key(self) -> None:
        first, second = DecisionSigner({1: KEY}, current=1), DecisionSigner({1: KEY}, current=1)
        assert {sign(first, 1, 1, 0, 0.0, 1.0)[1] for _ in range(100)}.isdisjoint(
            sign(second, 1, 1, 0, 0.0, 1.0)[1] for _ in range(100)
        )

    def test_tokens_of_equal_decisions_differ(self) -> None:
        assert sign(SIGNER, 1, 1, 0, 0.0, 1.0)[0] != sign(SIGNER, 1, 1, 0, 0.0, 1.0)[0]
