"""The demo, run as a user would: real server, real visitors, one plain sentence at the end."""

import re

from support import run_cli

SENTENCE = re.compile(
    r"The bandit earned (?P<earned>[\d,]+) clicks; an equal split of the 600 visitors would have earned about 31: "
    r"(?P<gap>[\d,]+) (?P<word>more|fewer) \((?P<percent>[+-]\d+%)\)\."
)


def test_the_demo_sends_every_visitor_and_says_what_it_earned() -> None:
    done = run_cli("demo", "--visitors", "600", "--seed", "7")
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    table = {line[0]: line[1:] for line in re.findall(r"│ (\w+) +│ +([\d.]+%) │ +([\d,]+) │ +([\d,]+) │", done.stdout)}
    assert {arm: row[0] for arm, row in table.items()} == {"grey": "4.0%", "green": "5.0%", "orange": "6.5%"}
    assert sum(int(draws) for _, draws, _ in table.values()) == 600
    assert all(draws == pulls for _, draws, pulls in table.values())
    found = SENTENCE.search(text)
    assert found, text
    earned = int(found["earned"])
    assert found["word"] == ("more" if earned >= 31 else "fewer")
    assert int(found["gap"]) == abs(earned - 31)


def test_the_demo_leaves_no_server_behind() -> None:
    done = run_cli("demo", "--visitors", "1")
    port = re.search(r"http://127\.0\.0\.1:(\d+)", done.stdout)
    assert port
    probe = run_cli("serve", "--port", port[1], "--data-dir", "/dev/null/not-a-directory")
    assert "cannot be used" in probe.stderr  # it got past taking the port
