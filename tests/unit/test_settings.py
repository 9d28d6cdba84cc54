"""Settings: precedence, types, ranges, messages, secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.errors import SettingsError
from streams.settings import Settings, effective_settings, load_settings, masked

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(environ: dict[str, str] | None = None, toml: str | None = None, folder: Path | None = None) -> str:
    if toml is not None:
        assert folder is not None
        (folder / "marketprism.toml").write_text(toml)
    with pytest.raises(SettingsError) as caught:
        load_settings(environ or {})
    return str(caught.value)


def test_without_file_and_environment_the_defaults_hold() -> None:
    assert load_settings({}) == Settings()


def test_environment_overrides_the_file_and_the_file_the_default(empty_folder: Path) -> None:
    (empty_folder / "marketprism.toml").write_text(
        '[kafka]\npartitions = 8\nreplication = 3\n[topics]\nprefix = "a."\n'
    )
    environ = {"MARKETPRISM_KAFKA__PARTITIONS": "16"}
    settings = load_settings(environ)
    assert (settings.kafka.partitions, settings.kafka.replication, settings.topics.prefix) == (16, 3, "a.")
    origins = {s.name: (s.origin, s.where) for s in effective_settings(environ)}
    assert origins["kafka.partitions"] == ("environment", "MARKETPRISM_KAFKA__PARTITIONS")
    assert origins["kafka.replication"] == ("file", "marketprism.toml")
    assert origins["kafka.bootstrap"] == ("default", "")


def test_the_variable_names_the_file(empty_folder: Path) -> None:
    (empty_folder / "other.toml").write_text("[clock]\nmax_skew_ms = 7\n")
    assert load_settings({"MARKETPRISM_FILE": "other.toml"}).clock.max_skew_ms == 7.0


def test_an_argument_names_the_file_before_the_variable_does(empty_folder: Path) -> None:
    (empty_folder / "one.toml").write_text("[clock]\nmax_skew_ms = 1\n")
    (empty_folder / "two.toml").write_text("[clock]\nmax_skew_ms = 2\n")
    assert load_settings({"MARKETPRISM_FILE": "one.toml"}, "two.toml").clock.max_skew_ms == 2.0


def test_a_named_file_that_is_missing_is_refused() -> None:
    message = refusal({"MARKETPRISM_FILE": "nowhere.toml"})
    assert "nowhere.toml" in message and "MARKETPRISM_FILE" in message


def test_a_file_that_is_not_toml_is_refused_with_its_line(empty_folder: Path) -> None:
    assert "line 2" in refusal(toml="[kafka]\npartitions 8\n", folder=empty_folder)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("KAFKA__PARTITIONS", "12", 12),
        ("CLOCK__MAX_SKEW_MS", "2.5", 2.5),
        ("CLOCK__MAX_SKEW_MS", "3", 3.0),
        ("INSTRUMENTS__STRICT", "true", True),
        ("INSTRUMENTS__STRICT", "0", False),
        ("KAFKA__BOOTSTRAP", "a:9092,[::1]:9093", "a:9092,[::1]:9093"),
        ("LOG__FORMAT", "json", "json"),
        ("TOPICS__PREFIX", "", ""),
    ],
)
def test_a_variable_becomes_the_type_of_its_field(name: str, text: str, value: object) -> None:
    subject, field = name.lower().split("__")
    found = getattr(getattr(load_settings({f"MARKETPRISM_{name}": text}), subject), field)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("KAFKA__PARTITIONS", "0", "1..1000"),
        ("KAFKA__PARTITIONS", "1001", "1..1000"),
        ("KAFKA__PARTITIONS", "four", "a whole number"),
        ("KAFKA__PARTITIONS", "", "a whole number"),
        ("KAFKA__PARTITIONS", "4.5", "a whole number"),
        ("CLOCK__MAX_SKEW_MS", "nan", "a number"),
        ("CLOCK__MAX_SKEW_MS", "inf", "a number"),
        ("CLOCK__MAX_SKEW_MS", "-1", "0..60000"),
        ("INSTRUMENTS__STRICT", "perhaps", "true or false"),
        ("KAFKA__BOOTSTRAP", "localhost", "host:port"),
        ("KAFKA__BOOTSTRAP", "a:1,", "host:port"),
        ("REDIS__URL", "localhost:6379", "redis://"),
        ("TOPICS__PREFIX", "run {1}", "letters"),
        ("TOPICS__PREFIX", "run\n", "letters"),
        ("LOG__LEVEL", "DEBUG", "INFO or WARNING or ERROR"),
        ("WORKER__PORT", "65536", "1..65535"),
        ("WORKER__DATA_DIR", "", "not empty"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name_its_origin_and_what_is_allowed(
    name: str, text: str, allowed: str
) -> None:
    message = refusal({f"MARKETPRISM_{name}": text})
    assert name.lower().replace("__", ".") in message
    assert f"MARKETPRISM_{name}" in message
    assert allowed in message
    assert "\n" not in message


@pytest.mark.parametrize("line", ['partitions = "8"', "partitions = true", "partitions = 8.5", "partitions = [8]"])
def test_a_file_is_held_to_the_type_it_can_express(line: str, empty_folder: Path) -> None:
    message = refusal(toml=f"[kafka]\n{line}\n", folder=empty_folder)
    assert "kafka.partitions" in message and "marketprism.toml" in message and "a whole number" in message


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("MARKETPRISM_KAFKA__PARTITION", "MARKETPRISM_KAFKA__PARTITIONS"),
        ("MARKETPRISM_KAFKA_PARTITIONS", "MARKETPRISM_KAFKA__PARTITIONS"),
        ("MARKETPRISM_KAFAK__BOOTSTRAP", "MARKETPRISM_KAFKA__BOOTSTRAP"),
    ],
)
def test_an_unknown_variable_is_refused_and_the_nearest_name_suggested(variable: str, meant: str) -> None:
    message = refusal({variable: "1"})
    assert variable in message and f"did you mean {meant}?" in message


def test_an_unknown_name_without_a_neighbour_points_to_the_list() -> None:
    message = refusal({"MARKETPRISM_XYZ": "1"})
    assert "did you mean" not in message and "marketprism settings" in message


@pytest.mark.parametrize(
    ("toml", "meant"),
    [("[kafak]\npartitions = 8", "kafka"), ("[kafka]\npartition = 8", "kafka.partitions"), ("kafka = 3", "[subject]")],
)
def test_an_unknown_subject_or_field_of_the_file_is_refused(toml: str, meant: str, empty_folder: Path) -> None:
    message = refusal(toml=toml, folder=empty_folder)
    assert meant in message and "marketprism.toml" in message


def test_variables_of_the_tests_and_of_others_are_left_alone() -> None:
    assert load_settings({"MARKETPRISM_TEST_KAFKA": "x", "PATH": "/bin", "marketprism_kafka": "y"}) == Settings()


def test_ports_that_collide_are_refused() -> None:
    assert "services.redis_port" in refusal({"MARKETPRISM_SERVICES__REDIS_PORT": "19092"})


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("redis.url", "redis://:hunter2@host:1/0", "redis://:***@host:1/0"),
        ("redis.url", "rediss://me:p@ss/w0rd@host/0", "rediss://me:***@host/0"),
        ("redis.url", "redis://host/0?password=hunter2&db=1", "redis://host/0?password=***&db=1"),
        ("redis.url", "redis://127.0.0.1:16379/0", "redis://127.0.0.1:16379/0"),
        ("kafka.sasl_password", "hunter2", "***"),
        ("http.token", "hunter2", "***"),
        ("http.token", "", ""),
        ("cache.signing_key", "hunter2", "***"),
        ("tokens.path", "/x", "/x"),
        ("kafka.partitions", 4, 4),
    ],
)
def test_secrets_are_masked_and_nothing_else(name: str, value: object, shown: object) -> None:
    assert masked(name, value) == shown


def test_a_refused_secret_stays_out_of_the_message() -> None:
    assert "hunter2" not in refusal({"MARKETPRISM_REDIS__URL": "http://:hunter2@host"})


def test_the_documentation_names_every_setting_with_its_default() -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    for setting in effective_settings({}):
        default = str(setting.value).lower() if isinstance(setting.value, bool) else setting.value
        shown = "empty" if default == "" else f"`{default}`"
        assert f"| `{setting.name}` | {shown} |" in text, f"docs/settings.md: {setting.name}"
