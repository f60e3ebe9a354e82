"""The files of a study: table.json, curves.parquet and the plots."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from multiarm.domain.errors import StartError
from multiarm.lab.plots import plot
from multiarm.lab.results import QUANTILES, Result


def prepare(directory: Path) -> None:
    """Make the folder before the work begins; StartError where that cannot be."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise StartError(f"{directory} is a file; --output takes a folder.") from None
    except OSError as error:
        raise StartError(f"The folder {directory} cannot be made: {error.strerror}.") from None


def write(results: Sequence[Result], directory: Path) -> list[Path]:
    """Everything; the files written. One Result for each delay, of the same policies."""
    rows = [row for result in results for row in result.rows]
    json, parquet = directory / "table.json", directory / "curves.parquet"
    json.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=2) + b"\n")
    pq.write_table(pa.concat_tables([curves(result) for result in results]), parquet)
    return [json, parquet, *plot(results, directory)]


def curves(result: Result) -> pa.Table:
    """A row for each policy and point of the curve; shares are of the draws since the point before."""
    return pa.concat_tables([curves_of(result, position) for position in range(len(result.outcomes))])


def curves_of(result: Result, position: int) -> pa.Table:
    outcome, study = result.outcomes[position], result.study
    regret, count = outcome.curves.regret, len(study.steps)
    error = regret.std(axis=0, ddof=1) / np.sqrt(study.runs) if study.runs > 1 else np.full(count, np.nan)
    columns = {
        "label": [outcome.entry.name] * count,
        "delay": np.full(count, study.environment.delay),
        "step": study.steps,
        "regret_mean": regret.mean(axis=0),
        "regret_se": error,
        **{f"regret_q{100 * at:02.0f}": np.quantile(regret, at, axis=0) for at in QUANTILES},
        "best_arm_share": outcome.best_arm_shares,
        "found_share": outcome.curves.found / study.runs,
        **{f"arm_{arm + 1}_share": share for arm, share in enumerate(outcome.shares.T)},
    }
    return pa.table({name: pa.array(values, from_pandas=True) for name, values in columns.items()})
