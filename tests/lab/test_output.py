"""The files of a study exist, can be read, and say the same as its result."""

import io
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from multiarm.domain.errors import StartError
from multiarm.domain.policies import UCB1, FixedSplit, Thompson
from multiarm.lab import Bernoulli, Change, Entry, Result, Row, Study, at_delays, simulate
from multiarm.lab.output import prepare, write
from multiarm.lab.plots import apart
from multiarm.lab.tables import decimal, table

POLICIES = (Entry(policy=UCB1()), Entry(policy=Thompson(), label="<mine> & $yours$"), Entry(policy=FixedSplit()))
STUDY = Study(environment=Bernoulli(means=(0.5, 0.4, 0.3)), policies=POLICIES, horizon=300, runs=30)
PLOTS = [f"{name}.{form}" for name in ("regret", "shares", "distribution") for form in ("png", "svg")]


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return [simulate(study) for study in at_delays(STUDY, [0, 100])]


@pytest.fixture(scope="module")
def one(results: list[Result], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("one")
    assert {path.name for path in write(results[:1], directory)} == {path.name for path in directory.iterdir()}
    return directory


def test_the_table_as_json(one: Path, results: list[Result]) -> None:
    rows = msgspec.json.decode((one / "table.json").read_bytes(), type=list[Row])
    assert rows == results[0].rows
    assert [row.label for row in rows] == ["ucb1", "<mine> & $yours$", "fixed_split"]
    assert rows[0].policy == {"type": "ucb1", "alpha": 2.0, "batch_draws": 1}
    assert rows[0].regret_quantiles["0.05"] <= rows[0].regret_mean <= rows[0].regret_quantiles["0.95"]


def test_the_curves_as_parquet(one: Path, results: list[Result]) -> None:
    curves = pq.read_table(one / "curves.parquet").to_pydict()
    assert len(curves["step"]) == len(STUDY.steps) * 3
    outcome = results[0].outcomes[0]
    first = slice(0, len(STUDY.steps))
    assert curves["label"][first] == ["ucb1"] * len(STUDY.steps)
    assert curves["step"][first] == STUDY.steps.tolist()
    assert curves["regret_mean"][first][-1] == pytest.approx(outcome.regret_mean)
    assert curves["regret_se"][first][-1] == pytest.approx(outcome.regret_se)
    assert np.allclose(np.sum([curves[f"arm_{arm}_share"] for arm in (1, 2, 3)], axis=0), 1)
    assert curves["arm_1_share"] == curves["best_arm_share"]
    assert curves["regret_q05"][-1] <= curves["regret_q50"][-1] <= curves["regret_q95"][-1]
    assert 0 <= min(curves["found_share"]) <= max(curves["found_share"]) <= 1


def test_of_several_delays_rows_and_curves_say_which(results: list[Result], tmp_path: Path) -> None:
    write(results, tmp_path)
    rows = msgspec.json.decode((tmp_path / "table.json").read_bytes(), type=list[Row])
    assert [row.delay for row in rows] == [0, 0, 0, 100, 100, 100]
    assert set(pq.read_table(tmp_path / "curves.parquet").to_pydict()["delay"]) == {0, 100}
    text = " ".join(texts(tmp_path / "regret.svg"))
    assert "rewards known at once" in text
    assert "rewards known 100 draws later" in text


class TestPlots:
    @pytest.mark.parametrize("name", [name for name in PLOTS if name.endswith("png")])
    def test_a_png_is_of_a_size_to_show(self, one: Path, name: str) -> None:
        content = (one / name).read_bytes()
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = (int.from_bytes(content[at : at + 4]) for at in (16, 20))
        assert 900 <= width <= 4000
        assert 400 <= height <= 4000
        assert 10_000 < len(content) < 500_000

    @pytest.mark.parametrize("name", [name for name in PLOTS if name.endswith("svg")])
    def test_an_svg_names_every_policy(self, one: Path, name: str) -> None:
        text = " ".join(texts(one / name))
        for label in ("ucb1", "<mine> & $yours$", "fixed_split", "30 runs", "means 0.5, 0.4, 0.3"):
            assert label in text

    def test_the_bound_says_that_it_is_asymptotic(self, one: Path) -> None:
        assert "(asymptotic, not a bound at finite times)" in " ".join(texts(one / "regret.svg"))

    def test_where_means_move_there_is_no_bound_and_time_is_linear(self, tmp_path: Path) -> None:
        changing = Bernoulli(means=(0.5, 0.4), changes=(Change(at=50, means=(0.4, 0.5)),))
        study = Study(environment=changing, policies=(Entry(policy=Thompson()),), horizon=100, runs=1)
        write([simulate(study)], tmp_path)
        text = " ".join(texts(tmp_path / "regret.svg"))
        assert "asymptotic" not in text
        assert "logarithmic" not in text

    def test_many_arms_and_policies_fit(self, tmp_path: Path) -> None:
        many = tuple(Entry(policy=UCB1(alpha=alpha / 2)) for alpha in range(1, 7))
        means = tuple(np.linspace(0.1, 0.9, 20).tolist())
        write([simulate(Study(environment=Bernoulli(means=means), policies=many, horizon=50, runs=3))], tmp_path)
        assert "13 others" in texts(tmp_path / "shares.svg")

    def test_no_regret_at_all_can_be_drawn(self, tmp_path: Path) -> None:
        equal = Study(environment=Bernoulli(means=(0.5, 0.5)), policies=POLICIES[:1], horizon=1, runs=1)
        write([simulate(equal)], tmp_path)

    def test_labels_keep_their_distance_and_stay_near(self) -> None:
        assert apart([1.0, 5.0], 1.0) == [1.0, 5.0]
        assert apart([5.0, 5.0, 1.0], 1.0) == [4.5, 5.5, 1.0]
        assert apart([1.0, 1.5, 2.5], 1.0) == pytest.approx([2 / 3, 5 / 3, 8 / 3])


def test_the_table_for_people(results: list[Result]) -> None:
    file = io.StringIO()
    console = Console(file=file, width=100)
    console.print(table(results[:1]))
    console.print(table(results))
    text = file.getvalue()
    assert "30 runs of 300 draws, 3 arms" in text
    assert "<mine> & $yours$" in text
    assert text.count("fixed_split") == 3
    assert "delay" in text


@pytest.mark.parametrize(
    ("value", "like", "text"),
    [
        (12345.6, None, "12,346"),
        (12.34, None, "12.3"),
        (0.123, 12.0, "0.1"),
        (0.0012, None, "0.0012"),
        (0.0, None, "0.00"),
    ],
)
def test_figures_have_as_many_digits_as_make_sense(value: float, like: float | None, text: str) -> None:
    assert decimal(value, like) == text


class TestFolder:
    def test_it_is_made_with_those_above_it(self, tmp_path: Path) -> None:
        prepare(tmp_path / "a" / "b")
        prepare(tmp_path / "a" / "b")
        assert (tmp_path / "a" / "b").is_dir()

    @pytest.mark.parametrize("name", ["file", "file/below"])
    def test_a_file_in_its_place_is_refused(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StartError):
            prepare(tmp_path / name)


def texts(file: Path) -> list[str]:
    """All text of an SVG."""
    return [text for element in ElementTree.parse(file).iter() for text in [element.text or ""] if text.strip()]
