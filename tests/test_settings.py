"""Settings: their order, what is refused and how, and that docs/settings.md tells of each."""

from pathlib import Path

import msgspec
import pytest

from multiarm.configuration import SettingRow, load_settings, settings_table
from multiarm.domain.errors import StartError
from multiarm.settings import Settings
from support import run_cli

DOCUMENT = Path(__file__).parents[1] / "docs" / "settings.md"
UNITS = ("_s", "_bytes", "_days", "_rows", "_updates", "_share", "_heads", "_per_s")


def toml(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "multiarm.toml"
    file.write_text(text)
    return file


def refusal(
    file: Path | None = None, environment: dict[str, str] | None = None, flags: dict[str, object] | None = None
) -> str:
    with pytest.raises(StartError) as refused:
        load_settings(file, environment or {}, flags)
    return str(refused.value)


class TestOrder:
    def test_without_any_source_they_are_the_defaults(self) -> None:
        assert load_settings(environment={}) == Settings()
        assert Settings().host == "127.0.0.1"
        assert Settings().port == 8080
        assert Settings().data_dir == "data"
        assert Settings().body_limit_bytes == 8 * 1024 * 1024

    def test_file_then_environment_then_flags(self, tmp_path: Path) -> None:
        file = toml(tmp_path, 'host = "a"\nport = 1\ndata_dir = "a"\nlog_level = "error"\n')
        settings = load_settings(
            file, {"MULTIARM_PORT": "2", "MULTIARM_DATA_DIR": "b", "MULTIARM_LOG_LEVEL": "debug"}, {"data_dir": "c"}
        )
        assert (settings.host, settings.port, settings.log_level, settings.data_dir) == ("a", 2, "debug", "c")
        assert settings.log_format == "human"

    def test_a_flag_that_was_not_given_does_not_count(self) -> None:
        settings = load_settings(environment={"MULTIARM_PORT": "2"}, flags={"port": None, "host": None})
        assert (settings.port, settings.host) == (2, "127.0.0.1")

    def test_other_variables_are_not_looked_at(self) -> None:
        environment = {"PORT": "x", "MULTIARM": "x", "multiarm_port": "x"}
        assert load_settings(environment=environment) == Settings()

    def test_lists(self, tmp_path: Path) -> None:
        file = toml(tmp_path, 'allowed_hosts = ["a", "b"]')
        assert load_settings(file, {}).allowed_hosts == ("a", "b")
        assert load_settings(file, {"MULTIARM_ALLOWED_HOSTS": "c,d"}).allowed_hosts == ("c", "d")
        assert load_settings(environment={"MULTIARM_ALLOWED_HOSTS": "c"}).allowed_hosts == ("c",)

    def test_white_space_around_the_names_of_a_list_does_not_matter(self) -> None:
        assert load_settings(environment={"MULTIARM_ALLOWED_HOSTS": "c, d"}).allowed_hosts == ("c", "d")

    def test_numbers_in_every_spelling(self, tmp_path: Path) -> None:
        file = toml(tmp_path, "shutdown_timeout_s = 2\nbody_limit_bytes = 2_048\n")
        settings = load_settings(file, {"MULTIARM_HEALTH_INTERVAL_S": "1e1", "MULTIARM_PORT": "0"})
        assert (settings.shutdown_timeout_s, settings.body_limit_bytes) == (2.0, 2048)
        assert (settings.health_interval_s, settings.port) == (10.0, 0)


class TestRefusals:
    @pytest.mark.parametrize("row", settings_table(), ids=lambda row: row.name)
    def test_no_setting_takes_nonsense(self, row: SettingRow) -> None:
        takes_words = row.allowed == "text" or row.name in ("allowed_hosts", "jwt_types")
        takes_none = row.name == "jwt_algorithms"
        numbers = ("nan", "inf", "-inf", "-1", "1e300", "much")
        for text in ("",) if takes_words else numbers if takes_none else ("", *numbers):
            said = refusal(environment={row.environment: text})
            assert row.name in said
            assert row.environment in said
            assert row.allowed in said

    def test_a_host_without_a_name_would_let_requests_without_a_host_through(self, tmp_path: Path) -> None:
        assert "allowed_hosts" in refusal(environment={"MULTIARM_ALLOWED_HOSTS": "localhost,"})
        assert "allowed_hosts" in refusal(toml(tmp_path, 'allowed_hosts = ["localhost", ""]'))

    @pytest.mark.parametrize(
        ("text", "name", "allowed"),
        [
            ("port = 65536", "port", "from 0 to 65,535"),
            ("port = -1", "port", "from 0 to 65,535"),
            ('port = "http"', "port", "a whole number"),
            ("port = 80.5", "port", "a whole number"),
            ("port = true", "port", "a whole number"),
            ("allocation_budget_share = 0", "allocation_budget_share", "above 0 to 1"),
            ("allocation_budget_share = 1.1", "allocation_budget_share", "above 0 to 1"),
            ("health_interval_s = nan", "health_interval_s", "from 0.05 to 3,600"),
            ("health_interval_s = inf", "health_interval_s", "from 0.05 to 3,600"),
            ('log_format = "xml"', "log_format", "'human' or 'json'"),
            ('log_level = "loud"', "log_level", "'info'"),
            ("host = 7", "host", "text"),
            ('host = ""', "host", "text"),
            ("allowed_hosts = []", "allowed_hosts", "a list of names"),
            ('allowed_hosts = "localhost"', "allowed_hosts", "a list of names"),
        ],
    )
    def test_in_the_file(self, tmp_path: Path, text: str, name: str, allowed: str) -> None:
        file = toml(tmp_path, text)
        said = refusal(file)
        assert str(file) in said
        assert name in said
        assert allowed in said

    @pytest.mark.parametrize("value", [-1, 65536, 10**30])
    def test_by_a_flag(self, value: int) -> None:
        said = refusal(flags={"port": value})
        assert "--port" in said
        assert "from 0 to 65,535" in said

    def test_unknown_names(self, tmp_path: Path) -> None:
        assert "colour" in refusal(toml(tmp_path, 'colour = "red"'))
        assert "server" in refusal(toml(tmp_path, "[server]\nport = 1"))
        assert "MULTIARM_COLOUR" in refusal(environment={"MULTIARM_COLOUR": "red"})

    def test_files_that_cannot_be_read(self, tmp_path: Path) -> None:
        for file in (tmp_path / "nothing.toml", tmp_path):
            assert str(file) in refusal(file)
        file = toml(tmp_path, "port = ")
        assert str(file) in refusal(file)
        file.write_bytes(b'host = "\xff"')
        assert str(file) in refusal(file)


class TestTable:
    def test_every_setting_has_a_row_with_help_and_range(self) -> None:
        rows = settings_table()
        assert [row.name for row in rows] == list(Settings.__struct_fields__)
        for row in rows:
            assert row.environment == f"MULTIARM_{row.name.upper()}"
            assert len(row.help) > 10
            assert row.allowed

    def test_a_number_with_a_unit_says_it_last(self) -> None:
        for field in msgspec.structs.fields(Settings):
            if isinstance(field.default, float):
                assert field.name.endswith(UNITS), field.name

    @pytest.mark.parametrize("row", settings_table(), ids=lambda row: row.name)
    def test_the_default_is_allowed_by_its_own_rule(self, row: SettingRow) -> None:
        default = getattr(Settings(), row.name)
        if default is None:
            assert row.default == "none"
            return
        text = ",".join(default) if isinstance(default, tuple) else str(default)
        assert getattr(load_settings(environment={row.environment: text}), row.name) == default

    @pytest.mark.parametrize("row", settings_table(), ids=lambda row: row.name)
    def test_the_document_tells_of_it(self, row: SettingRow) -> None:
        lines = [line for line in DOCUMENT.read_text().splitlines() if f"`{row.name}`" in line]
        told = [line for line in lines if row.environment in line and row.help in line and row.default in line]
        assert told, f"docs/settings.md has no line with {row.name}, {row.default}, {row.environment} and {row.help}"

    def test_the_document_tells_of_no_other(self) -> None:
        known = {row.environment for row in settings_table()} | {"MULTIARM_TEST_DATA", "MULTIARM_"}
        words = DOCUMENT.read_text().replace("`", " ").replace("|", " ").replace("…", " ").replace("=", " ").split()
        assert {word.strip(".,;:()") for word in words if word.startswith("MULTIARM_")} <= known


class TestCommandLine:
    def test_a_bad_one_ends_the_start_with_its_name_and_range(self, tmp_path: Path) -> None:
        file = toml(tmp_path, "body_limit_bytes = 1")
        data = tmp_path / "data"
        by_file = run_cli("serve", "--config", file, "--data-dir", data)
        by_environment = run_cli("serve", "--data-dir", data, settings={"port": "nan"})
        by_flag = run_cli("serve", "--port", "65536", "--data-dir", data)
        for done, name, allowed in (
            (by_file, "body_limit_bytes", "from 1,024 to"),
            (by_environment, "MULTIARM_PORT", "from 0 to 65,535"),
            (by_flag, "--port", "from 0 to 65,535"),
        ):
            assert done.returncode != 0
            assert name in done.stderr
            assert allowed in done.stderr
            assert "Traceback" not in done.stderr
            assert len(done.stderr.splitlines()) <= 3
        assert not data.exists()
