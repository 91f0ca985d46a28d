"""Exit codes and the one line that goes with them."""

import pytest

from deploy.local.errors import StackError
from services.cli import errors, runner
from services.cli.errors import ExitCode, Missing, Refused, Unreachable, Usage
from services.cli.output import Mode, Output
from services.shared.errors import Code, FieldViolation, Reason, RemoteError

PEER = "extractor at 127.0.0.1:7402"


def remote(code: Code, **fields: object) -> RemoteError:
    return RemoteError(peer=PEER, code=code, message="a sentence", **fields)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (Code.UNAVAILABLE, ExitCode.UNREACHABLE),
        (Code.DEADLINE_EXCEEDED, ExitCode.UNREACHABLE),
        (Code.NOT_FOUND, ExitCode.NOT_FOUND),
        (Code.INVALID_ARGUMENT, ExitCode.REFUSED),
        (Code.FAILED_PRECONDITION, ExitCode.REFUSED),
        (Code.ALREADY_EXISTS, ExitCode.REFUSED),
        (Code.RESOURCE_EXHAUSTED, ExitCode.REFUSED),
        (Code.UNIMPLEMENTED, ExitCode.REFUSED),
        (Code.INTERNAL, ExitCode.FAILED),
        (Code.UNKNOWN, ExitCode.FAILED),
    ],
)
def test_each_status_code_has_its_exit_code(code: Code, expected: ExitCode) -> None:
    assert errors.of_remote(remote(code)).exit_code == expected


def test_service_that_cannot_be_reached_is_named_with_its_address_and_the_cure() -> None:
    text = errors.explain(remote(Code.UNAVAILABLE))

    assert text == f"cannot reach the {PEER}: is the stack up? (`scristill up`)"


def test_service_whose_store_is_away_says_so_itself() -> None:
    text = errors.explain(remote(Code.UNAVAILABLE, reason=Reason.DEPENDENCY_UNAVAILABLE))

    assert text == f"{PEER}: a sentence"


def test_broken_rules_are_named_by_field() -> None:
    violation = FieldViolation(field="project.display_name", description="must not be empty")

    text = errors.explain(remote(Code.INVALID_ARGUMENT, field_violations=(violation,)))

    assert text == f"{PEER}: project.display_name: must not be empty"


def test_fault_of_the_server_tells_the_incident() -> None:
    assert errors.explain(remote(Code.INTERNAL, metadata={"incident_id": "3f2a"})).endswith("(incident 3f2a)")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (Usage("no"), 2, "scristill: no\n"),
        (Unreachable("no"), 3, "scristill: no\n"),
        (Missing("no"), 4, "scristill: no\n"),
        (Refused("no"), 5, "scristill: no\n"),
        (StackError("port 7401 is taken"), 1, "scristill: port 7401 is taken\n"),
        (KeyboardInterrupt(), 130, ""),
        (ValueError("odd"), 1, "scristill: unexpected ValueError: odd (--debug shows where)\n"),
        (ExceptionGroup("tasks", [ExceptionGroup("more", [Missing("no")])]), 4, "scristill: no\n"),
    ],
)
def test_error_of_a_command_is_one_line_and_its_exit_code(
    error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(_: Output) -> ExitCode:
        raise error

    with pytest.raises(runner.typer.Exit) as exited:
        runner.run(Mode(), work)

    assert exited.value.exit_code == code
    assert capsys.readouterr() == ("", text)


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def work(_: Output) -> ExitCode:
        raise ValueError("odd")

    with pytest.raises(runner.typer.Exit):
        runner.run(Mode(debug=True), work)

    assert "Traceback" in capsys.readouterr().err
