"""The contract of a class: its declarations, inherited and checked at the class statement."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import attrs
import pytest

from dexpy import Async, Error, Operation, PropsError, Recording, Reset, Retry, after, guard, prop, records
from dexpy.errors import DeclarationError, ResultTypeError
from dexpy.testing import Isolated


class Declined(Exception): ...


class Stolen(Declined): ...


class ApplicationOperation(Operation):
    """The common policies of an application."""

    async_ = Async(queue="slow", priority=3, in_=60)
    retry_on = (Retry(ConnectionError, attempts=5), Retry(TimeoutError, attempts=2))
    discard_on = (Declined,)
    rescue_from = {KeyError: "no_key"}
    errors = {"common": "A common one"}
    record = Recording(result=False)
    transaction = False

    @guard("closed")
    def closed(self) -> bool:
        return False

    def perform(self) -> Any:
        return None


class Plain(ApplicationOperation):
    pass


class Send(ApplicationOperation, name="mails.send", aliases=("old.Send", "older.Send")):
    """Send a mail.

    More of it here.
    """

    async_ = Async(queue="mails", at=datetime(2030, 1, 1, tzinfo=UTC))
    retry_on = (Retry(ConnectionError, attempts=9),)
    discard_on = (Stolen, "gone")
    rescue_from = {KeyError: "my_key", ValueError: "my_value"}
    errors = {"mine"}
    record = True
    transaction = True

    @after
    def noted(self) -> None: ...


class Fresh(ApplicationOperation):
    retry_on = (Reset(), Retry(OSError, attempts=3))
    discard_on = (Reset(),)


def attempts(cls: type[Operation], error: BaseException) -> int | None:
    """Return the attempts that the rule for an exception allows; 0 if it discards, None without a rule."""
    rule = cls.contract.rule_for(error)
    if rule is None:
        return None
    return 0 if rule.answer is None else rule.answer.attempts


# -------------------------------------------------------------------------------------------- inheritance


def test_a_subclass_without_policies_has_those_of_its_base() -> None:
    contract, base = Plain.contract, ApplicationOperation.contract
    assert contract.name == "features.test_contract.Plain"
    assert contract.aliases == ()
    assert contract.description is None
    assert contract.options == base.options
    assert (contract.options.queue, contract.options.priority, contract.options.in_) == ("slow", 3, 60)
    assert contract.record == Recording(result=False)
    assert not contract.transactional
    assert attempts(Plain, ConnectionError()) == 5
    assert attempts(Plain, Stolen()) == 0
    assert set(contract.errors) == {"common", "no_key", "closed"}
    assert contract.rescue_for(KeyError()) is not None


def test_tuples_and_mappings_of_a_subclass_add_to_those_of_the_base_and_precede_them() -> None:
    contract = Send.contract
    assert attempts(Send, ConnectionError()) == 9
    assert attempts(Send, ConnectionResetError()) == 9
    assert attempts(Send, TimeoutError()) == 2
    assert attempts(Send, Declined()) == 0
    assert attempts(Send, Error("gone")) == 0
    assert attempts(Send, Error("other")) is None
    assert attempts(Send, ValueError()) is None
    assert {rule.cause: rule.answer for rule in contract.rescues if rule.distance == 0} == {
        KeyError: "my_key",
        ValueError: "my_value",
    }
    rescue = contract.rescue_for(KeyError())
    assert rescue is not None
    assert rescue.answer == "my_key"
    assert dict(contract.errors) == {
        "common": "A common one",
        "mine": None,
        "closed": "closed",
        "no_key": None,
        "my_key": None,
        "my_value": None,
    }


def test_other_policies_of_a_subclass_replace_those_of_the_base() -> None:
    contract = Send.contract
    assert contract.record == Recording()
    assert contract.transactional
    assert contract.description == "Send a mail."
    assert (contract.options.queue, contract.options.priority) == ("mails", 3)
    assert [guard.code for guard in contract.guards] == ["closed"]
    assert contract.methods("after") == ("noted",)


def test_timing_of_a_subclass_replaces_timing_of_either_kind() -> None:
    assert Send.contract.options.in_ is None
    assert Send.contract.options.at == datetime(2030, 1, 1, tzinfo=UTC)

    class Again(Send):
        async_ = Async(in_=timedelta(seconds=5))

    assert Again.contract.options.at is None
    assert Again.contract.options.in_ == timedelta(seconds=5)
    assert Again.contract.options.queue == "mails"


def test_reset_clears_the_declarations_of_the_bases() -> None:
    assert attempts(Fresh, TimeoutError()) == 3  # a TimeoutError is an OSError
    assert attempts(Fresh, ConnectionError()) == 3
    assert attempts(Fresh, Declined()) is None


def test_policies_of_a_mixin_count_by_the_order_of_the_bases() -> None:
    class Nearer(Operation):
        retry_on = (Retry(ConnectionError, attempts=7),)
        errors = {"common": "Nearer"}

    class Both(Nearer, ApplicationOperation):
        pass

    assert attempts(Both, ConnectionError()) == 7
    assert attempts(Both, TimeoutError()) == 2
    assert Both.contract.errors["common"] == "Nearer"
    assert [guard.code for guard in Both.contract.guards] == ["closed"]


def test_names_and_aliases_are_not_inherited() -> None:
    class Sub(Send):
        pass

    assert Sub.contract.aliases == ()
    assert Sub.contract.name.endswith("Sub")


def test_the_policies_of_a_class_can_be_read_but_not_changed() -> None:
    assert Send.async_.queue == "mails"  # type: ignore[attr-defined, unused-ignore]
    assert Send.retry_on[0].attempts == 9
    frozen: Any = Send.contract
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        frozen.name = "x"
    policy: Any = Retry(ValueError)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        policy.attempts = 3
    with pytest.raises(DeclarationError, match="Operation is the base class of all operations and has no contract"):
        _ = Operation.contract


# ------------------------------------------------------------------------------- refused at the class statement


def declared(**body: Any) -> Callable[[], object]:
    """Execute a class statement with these attributes."""
    return lambda: type("Wrong", (Operation,), {"__module__": "nowhere", "__qualname__": "Wrong", **body})


def keywords(**words: Any) -> Callable[[], object]:
    """Execute a class statement with these keywords."""
    return lambda: type("Wrong", (Operation,), {"__module__": "nowhere", "__qualname__": "Wrong"}, **words)


retry = Retry(ConnectionError)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (
            declared(retry_on=retry),
            f"Wrong.retry_on: expected a tuple, got {retry!r}. A tuple of one entry needs a comma: retry_on = (...,).",
        ),
        (
            declared(retry_on=ConnectionError),
            "Wrong.retry_on: expected a tuple, got <class 'ConnectionError'>. "
            "A tuple of one entry needs a comma: retry_on = (...,).",
        ),
        (
            declared(retry_on=(ConnectionError,)),
            "Wrong.retry_on: expected Retry(...) and Reset(), got <class 'ConnectionError'>.",
        ),
        (
            declared(discard_on=ValueError),
            "Wrong.discard_on: expected a tuple, got <class 'ValueError'>. "
            "A tuple of one entry needs a comma: discard_on = (...,).",
        ),
        (
            declared(discard_on=(KeyboardInterrupt,)),
            "Wrong.discard_on: expected exception classes, codes and Reset(), got <class 'KeyboardInterrupt'>.",
        ),
        (
            declared(discard_on=(ConnectionError,), retry_on=(retry,)),
            "Wrong: ConnectionError is in both retry_on and discard_on. Remove it from one of them.",
        ),
        (
            declared(rescue_from=[(ValueError, "code")]),
            "Wrong.rescue_from: expected a mapping, got ((<class 'ValueError'>, 'code'),). "
            'Write rescue_from = {CardError: "card_declined"}.',
        ),
        (declared(rescue_from={"code": ValueError}), "Wrong.rescue_from: expected exception classes, got 'code'."),
        (
            declared(rescue_from={(ValueError, "busy"): "code"}),
            "Wrong.rescue_from: expected exception classes, got 'busy' in (<class 'ValueError'>, 'busy').",
        ),
        (
            declared(rescue_from={Error: "code"}),
            "Wrong.rescue_from: Error is a business error, which is never rescued. Remove it.",
        ),
        (
            declared(rescue_from={ValueError: 7}),
            "Wrong.rescue_from[ValueError]: expected an error code, an exception class or a function of the operation "
            "and the exception, got 7.",
        ),
        (
            declared(rescue_from={ValueError: ""}),
            "Wrong.rescue_from[ValueError]: expected an error code, an exception class or a function of the operation "
            "and the exception, got ''.",
        ),
        (
            declared(errors="no_balance"),
            "Wrong.errors: expected a set of codes, got 'no_balance'. Write errors = {\"no_balance\"}.",
        ),
        (declared(errors={7}), "Wrong.errors: invalid code 7; expected a str of 1 to 255 characters."),
        (declared(errors={"a": 7}), "Wrong.errors['a']: expected a description, a str, got 7."),
        (
            declared(record="yes"),
            "Wrong.record: expected True, False or a Recording(...) of bools, got 'yes'. "
            "Write record = Recording(params=True, result=False).",
        ),
        (
            declared(record=Recording(params="no")),  # type: ignore[arg-type]
            "Wrong.record: expected True, False or a Recording(...) of bools, got Recording(params='no', result=True, "
            "keep=None). Write record = Recording(params=True, result=False).",
        ),
        (declared(transaction="no"), "Wrong.transaction: expected True or False, got 'no'."),
        (
            declared(async_="mails"),
            "Wrong.async_: expected an Async(...), got 'mails'. Write async_ = Async(queue=\"mailers\", priority=5).",
        ),
        (
            declared(async_=Async(queue="bad name")),
            "Wrong.async_: invalid queue name 'bad name'; use 1 to 64 letters, digits, '.', '_' or '-', beginning with "
            "a letter or '_'.",
        ),
        (
            declared(async_=Async(priority="high")),  # type: ignore[arg-type]
            "Wrong.async_: priority='high': expected an int of 32 bits; higher runs sooner.",
        ),
        (
            declared(async_=Async(in_=-1)),
            "Wrong.async_: in_=-1: expected a finite delay of 0 or more seconds.",
        ),
        (
            declared(async_=Async(in_=1, at=datetime(2030, 1, 1, tzinfo=UTC))),
            "Wrong.async_: expected in_ (a delay) or at (a datetime), got both.",
        ),
        (
            declared(async_=Async(at=datetime(2030, 1, 1))),
            "Wrong.async_: at=datetime.datetime(2030, 1, 1, 0, 0): expected an aware datetime, got a naive one. "
            "Pass a time zone: datetime(..., tzinfo=timezone.utc) or ZoneInfo('Europe/Berlin').",
        ),
        (
            declared(perform=staticmethod(lambda: 1)),
            "Wrong.perform: expected a method. Write def perform(self) -> ...",
        ),
        (declared(perform=7), "Wrong.perform: expected a method. Write def perform(self) -> ..."),
        (keywords(name=""), "class Wrong(name=''): expected a str of 1 to 255 characters."),
        (keywords(name=7), "class Wrong(name=7): expected a str of 1 to 255 characters."),
        (keywords(name="x" * 256), f"class Wrong(name={'x' * 256!r}): expected a str of 1 to 255 characters."),
        (
            keywords(aliases="old.Name"),
            "class Wrong(aliases='old.Name'): expected a tuple of earlier names. Write aliases=('old.Name',).",
        ),
        (
            keywords(aliases=(7,)),
            "class Wrong(aliases=(7,)): expected a tuple of earlier names. Write aliases=('old.Name',).",
        ),
    ],
)
def test_an_invalid_policy_is_refused_at_the_class_statement(statement: Callable[[], object], message: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        statement()
    assert str(caught.value) == message
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Retry(), "Retry(...): expected exception classes or error codes, got none."),
        (
            lambda: Retry(ConnectionError()),  # type: ignore[arg-type]
            "Retry(...): expected subclasses of Exception or codes of business errors, got ConnectionError().",
        ),
        (
            lambda: Retry(KeyboardInterrupt),
            "Retry(...): expected subclasses of Exception or codes of business errors, got "
            "<class 'KeyboardInterrupt'>.",
        ),
        (
            lambda: Retry(ValueError, attempts=0),
            "Retry(attempts=0): expected an int of at least 1, or None for no limit.",
        ),
        (
            lambda: Retry(ValueError, attempts=True),
            "Retry(attempts=True): expected an int of at least 1, or None for no limit.",
        ),
        (
            lambda: Retry(ValueError, wait="polynomialy_longer"),  # type: ignore[arg-type]
            "Retry(wait='polynomialy_longer'): expected seconds, a timedelta, a function, or one of "
            "'exponentially_longer', 'polynomially_longer'. Did you mean 'polynomially_longer'?",
        ),
        (
            lambda: Retry(ValueError, wait=-3),
            "Retry: wait=-3: expected a finite delay of 0 or more seconds.",
        ),
        (
            lambda: Retry(ValueError, wait=None),  # type: ignore[arg-type]
            "Retry: wait=None: expected seconds or a timedelta. Write wait=60 for a minute.",
        ),
        (lambda: Retry(ValueError, jitter=2), "Retry(jitter=2): expected a number from 0 to 1."),
        (lambda: Retry(ValueError, jitter="x"), "Retry(jitter='x'): expected a number from 0 to 1."),  # type: ignore[arg-type]
    ],
)
def test_an_invalid_retry_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        make()
    assert str(caught.value) == message


def test_a_perform_that_would_not_run_as_written_is_refused() -> None:
    with pytest.raises(DeclarationError, match=r"Yields\.perform: expected a plain method, got a generator function\."):

        class Yields(Operation):
            def perform(self) -> Any:
                yield 1

    with pytest.raises(DeclarationError, match=r"YieldsLater\.perform: expected a plain method"):

        class YieldsLater(Operation):
            async def perform(self) -> Any:
                yield 1

    with pytest.raises(DeclarationError) as caught:

        class WithParameters(Operation):
            def perform(self, customer: int, *rest: int, note: str = "") -> None: ...

    assert str(caught.value).endswith(
        "WithParameters.perform: expected no parameters besides self, got 'customer'. "
        "Declare a prop for each and read it from self."
    )


def test_a_class_without_perform_is_a_base_and_cannot_be_called() -> None:
    class Common(Operation):
        pass

    with pytest.raises(DeclarationError) as caught:
        Common().call()
    assert str(caught.value).endswith("Common has no perform. Write `def perform(self) -> ...:` in the class.")
    with pytest.raises(DeclarationError, match=r"Operation is a base class\. Declare a subclass with"):
        Operation()


# ---------------------------------------------------------------------------------------------------- results


class Answer(Operation):
    """Is annotated to return an int."""

    answer: Any

    def perform(self) -> int:
        return self.answer  # type: ignore[no-any-return]


class Anything(Answer):
    def perform(self):  # type: ignore[no-untyped-def]
        return self.answer


class Nothing(Answer):
    def perform(self) -> None:  # type: ignore[override]
        return self.answer


def test_the_return_annotation_is_the_success_contract(isolated_runtime: Isolated) -> None:
    assert Answer(answer=3).call() == 3
    with pytest.raises(ResultTypeError) as caught:
        Answer(answer="3").call()
    assert str(caught.value) == (
        "Answer.perform: expected to return int, got str (result: expected int). "
        "Change the return value or the annotation."
    )
    assert isinstance(caught.value, TypeError)
    record = records.failed().first()
    assert record is not None
    assert (record.failure, record.error) == ("crash", "dexpy.errors.ResultTypeError")


def test_without_an_annotation_any_result_is_accepted_and_none_is_checked() -> None:
    assert Anything(answer="3").call() == "3"
    assert Nothing(answer=None).call() is None
    with pytest.raises(ResultTypeError, match=r"Nothing\.perform: expected to return None, got int"):
        Nothing(answer=3).call()


class Unlock(Operation, name="contract.unlock"):
    pin: str = prop(sensitive=True, choices=("c1", "c2"), default="c1")
    key: str = prop(encrypted=True, choices=("c3", "c4"), default="c3")
    keys: tuple[Annotated[str, prop(sensitive=True, choices=("c5", "c6"))], ...] = ("c5",)
    door: str = prop(choices=("front", "back"), default="front")

    def perform(self) -> None: ...


class UnlockEncrypted(Unlock, name="contract.unlock_encrypted"):
    encrypt = True


@pytest.mark.parametrize("operation", [Unlock, UnlockEncrypted])
def test_defaults_and_choices_of_sensitive_props_are_in_no_contract(operation: type[Operation]) -> None:
    exported = json.dumps([operation.contract.to_dict(), operation.contract.to_json_schema("full")])

    assert not [secret for secret in ("c1", "c2", "c3", "c4", "c5", "c6") if f'"{secret}"' in exported]
    assert ("back" in exported) is (operation is Unlock)
    with pytest.raises(PropsError) as refused:
        operation.parse({"pin": "x", "key": "x", "keys": ["x"], "door": "front"})
    assert not [secret for secret in ("c1", "c2", "c3", "c4", "c5", "c6") if secret in str(refused.value)]
