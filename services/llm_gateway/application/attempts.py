"""Runs one generation to its end: a slot, the provider, retries, the check of structured output.

Only failures that may pass are retried, within the attempts of the policy, the retry
budget of the process and the callers' deadline. Output that does not match its schema is
repaired if that is possible without guessing; otherwise the model is told once what was
wrong. Whatever happens, cancellation included, the meter holds the tokens spent.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import dataclass, field, replace

import structlog
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind

from services.llm_gateway.application.admission import Admission, Ticket
from services.llm_gateway.application.ports import (
    Finish,
    GenerationProvider,
    OutputChecker,
    Problem,
    Question,
    Sample,
    Verdict,
)
from services.llm_gateway.application.retrying import Retries
from services.llm_gateway.domain.calls import (
    ChatMessage,
    FinishReason,
    GenerateCall,
    ModelInfo,
    Role,
    Usage,
    estimated_tokens,
)
from services.llm_gateway.domain.errors import OutputInvalid, ProviderError, ProviderFailure, ProviderRejection
from services.llm_gateway.domain.frames import Delta, Done, Frame, Started, UsageReport
from services.llm_gateway.domain.records import MAX_KEPT_OUTPUT, FailedCall
from services.shared.clock import Clock
from services.shared.errors import Reason
from services.shared.telemetry import tracing

# Larger pieces are cut, to stay far below the size limit of a message.
_MAX_DELTA_CHARACTERS = 256 * 1024
_MAX_OUTPUT_CHARACTERS = 8 * 1024 * 1024
_TOKENS_PER_COST = 1000
# Larger outputs are checked in a thread, where they cannot hold up the other calls.
_INLINE_CHECK_CHARACTERS = 64 * 1024

logger = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRoute:
    """A model that generates, and the queue in front of it."""

    provider: GenerationProvider
    admission: Admission


@dataclass(slots=True, kw_only=True)
class Run:
    """One run of a call. `emit` takes frames as they come; `usage` is right at any moment between awaits."""

    call: GenerateCall
    route: GenerationRoute
    emit: Callable[[Frame], None]
    deadline: Callable[[], float | None]
    attempt: int = 0
    usage: Usage = field(default_factory=Usage)
    failures: list[FailedCall] = field(default_factory=list[FailedCall])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    text: str
    last_seq: int
    reason: FinishReason


class Attempts:
    def __init__(self, *, retries: Retries, checker: OutputChecker, clock: Clock) -> None:
        self._retries = retries
        self._checker = checker
        self._clock = clock

    async def run(self, run: Run) -> Done:
        """Raises a `ServiceError` when there is no result."""
        call = run.call
        question = Question(prompt=call.prompt, sampling=call.sampling, output_format=call.output_format)
        if call.output_format is not None:
            self._checker.require_valid(call.output_format)
        self._retries.begin()
        answer = await self._ask_until_answered(run, question)
        verdict = await self._check(run, answer)
        if verdict.problem is not None and run.route.provider.takes_corrections:
            question = replace(question, prompt=replace(question.prompt, messages=_corrected(call, answer, verdict)))
            answer = await self._ask_until_answered(run, question)
            verdict = await self._check(run, answer)
        if verdict.problem is not None and call.output_format is not None:
            raise OutputInvalid.at(verdict.problem.path, schema=call.output_format.name)
        return Done(
            finish_reason=answer.reason,
            usage=run.usage,
            last_seq=answer.last_seq,
            model=run.route.provider.model.name,
            repaired_output=verdict.repaired,
        )

    async def _check(self, run: Run, answer: _Answer) -> Verdict:
        schema = run.call.output_format
        if schema is None:
            return Verdict()
        if len(answer.text) > _INLINE_CHECK_CHARACTERS:
            verdict = await asyncio.to_thread(self._checker.check, answer.text, schema)
        else:
            verdict = self._checker.check(answer.text, schema)
        if verdict.problem is not None:
            problem = f"at {verdict.problem.path or '/'}: {verdict.problem.description}"
            self._note_failure(run, Reason.OUTPUT_INVALID, problem, output=answer.text)
        return verdict

    def _note_failure(self, run: Run, reason: Reason, message: str, *, status: int = 0, output: str = "") -> None:
        model = run.route.provider.model
        run.failures.append(
            FailedCall(
                provider=model.provider,
                model=model.name,
                reason=reason,
                message=message,
                provider_status=status,
                output=output[:MAX_KEPT_OUTPUT],
                fail_time=self._clock.now(),
            )
        )

    async def _ask_until_answered(self, run: Run, question: Question) -> _Answer:
        model = run.route.provider.model
        for attempt in range(1, self._retries.max_attempts + 1):
            run.attempt += 1
            try:
                return await self._ask(run, question)
            except ProviderRejection as error:
                logger.warning("provider_refused", model=model.name, status=error.status, problem=error.explanation)
                self._note_failure(run, Reason.PROVIDER_REFUSED, error.explanation, status=error.status)
                raise error.refused(model.provider) from error
            except ProviderFailure as error:
                self._note_failure(
                    run, Reason.PROVIDER_UNAVAILABLE, error.explanation, status=error.status, output=error.output
                )
                await self._retries.pause(
                    error,
                    attempt=attempt,
                    admission=run.route.admission,
                    provider=model.provider,
                    deadline=run.deadline(),
                )
        raise AssertionError("the last failed attempt raises")

    async def _ask(self, run: Run, question: Question) -> _Answer:
        size = question.prompt.characters
        ticket = Ticket(
            project_id=run.call.project_id,
            priority=run.call.priority,
            cost=1 + estimated_tokens(size) / _TOKENS_PER_COST,
            deadline=run.deadline(),
            again=run.attempt > 1,
        )
        async with run.route.admission.slot(ticket, on_queued=run.emit):
            return await _Attempt(run, question, self._clock).answer()


class _Attempt:
    """One call to the provider: turns pieces into deltas, keeps count, tells the limiter how it went."""

    def __init__(self, run: Run, question: Question, clock: Clock) -> None:
        self._run = run
        self._question = question
        self._clock = clock
        self._texts: list[str] = []
        self._characters = 0
        self._seq = 0
        self._finish: Finish | None = None
        self._first_token_at: float | None = None

    async def answer(self) -> _Answer:
        run = self._run
        model = run.route.provider.model
        run.emit(Started(provider=model.provider, model=model.name, attempt=run.attempt))
        started = self._clock.monotonic()
        failure: ProviderError | None = None
        with _span(model, run.attempt) as span:
            try:
                return await self._read()
            except ProviderError as error:
                failure = error
                error.output = "".join(self._texts)
                raise
            finally:
                used = self._settle(started, failure)
                span.set_attribute("gen_ai.usage.input_tokens", used.input_tokens)
                span.set_attribute("gen_ai.usage.output_tokens", used.output_tokens)

    async def _read(self) -> _Answer:
        async with aclosing(self._run.route.provider.generate(self._question)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Finish):
                    self._finish = piece
                elif piece:
                    self._take(piece)
                if self._characters > _MAX_OUTPUT_CHARACTERS:
                    self._finish = Finish(reason=FinishReason.LENGTH, usage=None)
                    break
        if self._finish is None:
            raise ProviderFailure("the answer broke off")
        return _Answer(text="".join(self._texts), last_seq=self._seq, reason=self._finish.reason)

    def _take(self, text: str) -> None:
        if self._first_token_at is None:
            self._first_token_at = self._clock.monotonic()
        self._texts.append(text)
        self._characters += len(text)
        for start in range(0, len(text), _MAX_DELTA_CHARACTERS):
            self._seq += 1
            self._run.emit(Delta(seq=self._seq, text=text[start : start + _MAX_DELTA_CHARACTERS]))

    def _settle(self, started: float, failure: ProviderError | None) -> Usage:
        run = self._run
        counted = self._finish.usage if self._finish else None
        used = counted or self._estimate(failure)
        run.usage += replace(used, provider_calls=1)
        if self._finish is not None:
            run.emit(UsageReport(usage=run.usage))
        first = self._first_token_at
        run.route.admission.record(
            Sample(
                usage=used,
                seconds=self._clock.monotonic() - started,
                first_token_seconds=first - started if first is not None else None,
                throttled=isinstance(failure, ProviderFailure) and failure.throttled,
                failed=failure is not None,
            )
        )
        return used

    def _estimate(self, failure: ProviderError | None) -> Usage:
        """A call that failed before its first token has cost nothing; any other is charged what was seen."""
        if failure is not None and not self._texts:
            return Usage()
        return Usage(
            input_tokens=estimated_tokens(self._question.prompt.characters),
            output_tokens=estimated_tokens(self._characters),
            estimated=True,
        )


def _span(model: ModelInfo, attempt: int) -> AbstractContextManager[Span]:
    """The span of one call to a provider; none, for speed, in a trace that is not recorded."""
    if not trace.get_current_span().is_recording():
        return nullcontext(trace.INVALID_SPAN)
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": model.provider,
        "gen_ai.request.model": model.name,
        "scristill.llm.attempt": attempt,
    }
    return tracing.span(f"chat {model.name}", kind=SpanKind.CLIENT, attributes=attributes)


def _corrected(call: GenerateCall, answer: _Answer, verdict: Verdict) -> tuple[ChatMessage, ...]:
    problem = verdict.problem or Problem(path="", description="")
    return (
        *call.prompt.messages,
        ChatMessage(role=Role.ASSISTANT, text=answer.text or "(empty)"),
        ChatMessage(
            role=Role.USER,
            text=(
                "This output does not match the JSON Schema that was asked for. "
                f"At {problem.path or '/'}: {problem.description}. "
                "Answer again, with the whole corrected JSON and nothing else."
            ),
        ),
    )
