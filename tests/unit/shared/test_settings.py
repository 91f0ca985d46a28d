import pytest
from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from services.shared.settings import (
    CommaList,
    SecretUrl,
    ServiceSettings,
    load,
    render,
    render_table,
    unknown_variables,
)

URL = "postgresql://scristill:hunter2@db:5432/scristill"


class GreeterSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="GREETER_")

    database_url: SecretUrl = Field(description="PostgreSQL.")
    api_key: SecretStr = Field(default=SecretStr(""), description="Key of the provider.")
    hosts: CommaList = Field(default=(), description="Allowed hosts.")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("GREETER_DATABASE_URL", URL)
    return monkeypatch


def problem(capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        load(GreeterSettings)
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_values_come_from_prefixed_variables(environment: pytest.MonkeyPatch):
    environment.setenv("GREETER_PORT", "7409")
    environment.setenv("GREETER_HOSTS", "a.example, b.example,")
    environment.setenv("GREETER_LOG_FORMAT", "CONSOLE")

    settings = load(GreeterSettings)

    assert (settings.port, settings.hosts, settings.log_format) == (7409, ("a.example", "b.example"), "console")


def test_empty_variable_means_the_default(environment: pytest.MonkeyPatch):
    environment.setenv("GREETER_PORT", "")

    assert load(GreeterSettings).port == 0


def test_malformed_variable_is_named_with_its_value(environment, capsys):
    environment.setenv("GREETER_PORT", "abc")

    assert problem(capsys).startswith("GREETER_PORT: input should be a valid integer")
    assert problem(capsys).endswith('got "abc"')


def test_missing_variable_is_named(environment, capsys):
    environment.delenv("GREETER_DATABASE_URL")

    assert problem(capsys) == "GREETER_DATABASE_URL: required, not set"


def test_all_bad_variables_are_named_in_the_one_line(environment, capsys):
    environment.setenv("GREETER_PORT", "99999")
    environment.setenv("GREETER_LOG_LEVEL", "loud")

    line = problem(capsys)

    assert "GREETER_PORT: " in line
    assert "GREETER_LOG_LEVEL: " in line


def test_service_link_of_kubernetes_is_recognised(environment, capsys):
    environment.setenv("GREETER_PORT", "tcp://10.0.0.1:7409")

    assert "enableServiceLinks" in problem(capsys)


def test_secret_never_appears_in_a_problem(environment, capsys):
    class Strict(GreeterSettings):
        api_key: SecretStr = Field(min_length=100, description="Key.")

    environment.setenv("GREETER_API_KEY", "hunter2")
    with pytest.raises(SystemExit):
        load(Strict)

    assert "hunter2" not in capsys.readouterr().err


def test_rendered_settings_hide_secrets(environment: pytest.MonkeyPatch):
    environment.setenv("GREETER_API_KEY", "hunter2")
    settings = load(GreeterSettings)

    lines = render(settings).splitlines()

    assert "GREETER_DATABASE_URL=postgresql://scristill:***@db:5432/scristill" in lines
    assert "GREETER_API_KEY=***" in lines
    assert "GREETER_WORKERS=1" in lines
    assert "hunter2" not in render(settings) + repr(settings) + str(settings)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:hunter2@cache:6379/0", "redis://:***@cache:6379/0"),
        ("redis://cache:6379/0", "redis://cache:6379/0"),
        ("postgresql://user@db/x", "postgresql://user@db/x"),
        ("postgresql://user:p%40ss:word@db/x", "postgresql://user:***@db/x"),
        ("postgresql://user:p/a@ss@db/x", "postgresql://user:***@db/x"),
    ],
)
def test_password_in_a_url_is_hidden(url: str, shown: str):
    assert str(SecretUrl(url)) == shown


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load(GreeterSettings).port = 1


def test_misspelt_variable_is_reported_with_its_neighbour():
    found = list(unknown_variables(GreeterSettings, ["GREETER_DRAIN_SECOND", "GREETER_PORT", "HOME", "GREETER_X"]))

    assert found == ["GREETER_DRAIN_SECOND: not a setting; GREETER_DRAIN_SECONDS is"]


def test_table_has_a_row_per_variable():
    rows = render_table(GreeterSettings).splitlines()

    assert "| `GREETER_DATABASE_URL` | *required* | PostgreSQL. |" in rows
    assert "| `GREETER_API_KEY` | – | Key of the provider. |" in rows
    assert "| `GREETER_LOG_FORMAT` | `json` | `json` for machines, `console` for people. |" in rows


def test_field_without_description_has_no_place_in_the_table():
    class Careless(ServiceSettings):
        secret_knob: int = 3

    with pytest.raises(ValueError, match="secret_knob"):
        render_table(Careless)
