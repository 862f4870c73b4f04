"""The keys of one operation, computed from its props by the rules of its policies, as a digest or as text.

Equal values have equal keys, whatever their stored JSON; a reference is represented by its key, without a query.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import quote

import attrs

from dexpy.codec.plain_json import plain_key
from dexpy.declaration.contract import Contract
from dexpy.declaration.props import Prop, construct, decode_props, encode_key_props
from dexpy.foundation.errors import (
    NotSerializable,
    OptionsError,
    PropsError,
    Undecodable,
    did_you_mean,
    listed,
)
from dexpy.policies.keys import KeyRule, check_text
from dexpy.policies.once import KEY_ATTRIBUTE, OnceOptions

MAX_VARIANTS = 32
"""The maximum number of earlier variants of a key that are searched."""
_VARIANTS = "__dexpy_variants__"


def once_contract(operation: Any, contract: Contract) -> Contract:
    """Return the contract with a key, after ``op.once("key")``, or without one, after ``op.once(None)``."""
    has_key = operation.__dict__[KEY_ATTRIBUTE] is not None
    if has_key == (contract.once is not None):
        return contract
    # Stored with the contract of the class, like its cached properties: made once for each.
    variants: dict[bool, Contract] = vars(contract).setdefault(_VARIANTS, {})
    if has_key not in variants:
        variants[has_key] = attrs.evolve(contract, once=OnceOptions() if has_key else None)
    return variants[has_key]


def once_keys(operation: Any, contract: Contract) -> tuple[str, ...]:
    """Return the digests of the idempotency key of an operation, under its current and its earlier names.

    Raises:
        OptionsError: The function of its class returned no key.
        NotSerializable: A prop of the key has no JSON form.
    """
    key, once = operation.__dict__.get(KEY_ATTRIBUTE), contract.once
    assert once is not None  # noqa: S101 - callers have checked
    if key is not None:
        return _digests("once", contract, key, None, once.group)
    key_values = _key_values(once.rule, operation, contract, f"{contract.cls.__qualname__}.once")
    return _digests("once", contract, key_values, once.rule, once.group)


def once_keys_by(contract: Contract, key: str | None, props: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the digests of an idempotency key that the caller passes, by its text or by its props.

    Raises:
        OptionsError: Both or neither are passed, or a prop of the key is missing.
        PropsError: A prop has an invalid value.
    """
    where = f"{contract.cls.__qualname__}.clear_once(...)"
    if key is None and "key" in props and "key" not in [prop.name for prop in contract.props]:
        props = dict(props)
        key = props.pop("key")
    if key is not None:
        if props:
            raise OptionsError(f"{where}: expected a key or props, got both.")
        group = None if contract.once is None else contract.once.group
        return _digests("once", contract, check_text(key, where), None, group)
    if contract.once is None:
        raise OptionsError(f'{where}: the class declares no once. Pass the key: clear_once("key").')
    rule = contract.once.rule
    if rule.function is not None or not rule.named:
        if not props and contract.props:
            raise OptionsError(f"{where}: expected a key or the props of the operation, got neither.")
        return once_keys(contract.cls(**props), contract)
    names = [prop.name for prop in contract.props]
    for name in props:
        if name not in names:
            raise OptionsError(f"{where}: unknown prop {name!r}.{did_you_mean(name, names)}")
    if missing := [name for name in rule.named if name not in props]:
        raise OptionsError(f"{where}: expected all props of the key; {listed(missing)} is missing.")
    key_props = tuple(prop for prop in contract.props if prop.name in rule.named)
    values = construct(contract.cls.__qualname__, key_props, {name: props[name] for name in rule.named})
    key_values = _key_values(rule, SimpleNamespace(**values), contract, where)
    return _digests("once", contract, key_values, rule, contract.once.group)


def is_same_request(contract: Contract, stored: Any, params: Any) -> bool:
    """Return whether the params of an earlier run equal those of this call, as the class reads them now.

    Args:
        contract: The contract of the operation.
        stored: The params of the earlier run; None if they were not recorded, which counts as equal.
        params: The encoded params of this call.
    """
    if stored is None or params is None or stored == params:
        return True
    try:
        return _comparable(contract, stored) == _comparable(contract, params)
    except (PropsError, Undecodable, NotSerializable):
        return False


def _comparable(contract: Contract, params: Any) -> Mapping[str, Any]:
    # A prop that was added later has its default in the earlier run; a removed one is ignored.
    owner = contract.cls.__qualname__
    values, _ = decode_props(owner, contract.props, params)
    return encode_key_props(owner, contract.props, contract.cls(**values).__dict__)


def unique_keys(operation: Any, contract: Contract) -> tuple[str, ...]:
    """Return the digests of the unique key of an operation, under its current and its earlier names.

    Raises:
        OptionsError: The function of its class returned no key.
        NotSerializable: A prop of the key has no JSON form.
    """
    unique = contract.unique
    assert unique is not None  # noqa: S101 - callers have checked
    key_values = _key_values(unique.rule, operation, contract, f"{contract.cls.__qualname__}.unique")
    return _digests("unique", contract, key_values, unique.rule, unique.group)


def concurrency_key(operation: Any, contract: Contract) -> str:
    """Return the key whose slots an operation takes, as 64 hexadecimal digits.

    Raises:
        OptionsError: The function of its class returned no key.
        NotSerializable: A prop of the key has no JSON form.
    """
    limit = contract.concurrency
    assert limit is not None  # noqa: S101 - callers have checked
    return _limit_key("concurrency", operation, contract, limit.rule, limit.group)


def rate_key(operation: Any, contract: Contract) -> str:
    """Return the key whose starts are limited, as 64 hexadecimal digits; see `concurrency_key` for the exceptions."""
    rate = contract.rate
    assert rate is not None  # noqa: S101 - callers have checked
    return _limit_key("rate", operation, contract, rate.rule, rate.group)


def fair_key(operation: Any, contract: Contract) -> str:
    """Return the key by which runs start in turn, as 64 digits; see `concurrency_key` for the exceptions."""
    fair = contract.fair
    assert fair is not None  # noqa: S101 - callers have checked
    return _limit_key("fair", operation, contract, fair.rule, fair.group)


def _limit_key(policy: str, operation: Any, contract: Contract, rule: KeyRule | None, group: str | None) -> str:
    key_values = None
    if rule is not None:
        key_values = _key_values(rule, operation, contract, f"{contract.cls.__qualname__}.{policy}")
    return _digests(policy, contract, key_values, rule, group)[0]


def background_keys(contract: Contract) -> list[Callable[[Any, Contract], str]]:
    """Return the functions that compute the keys of background runs from functions of a class."""
    keys: list[Callable[[Any, Contract], str]] = []
    if contract.unique is not None and contract.unique.rule.function is not None:
        keys.append(lambda operation, own_contract: unique_keys(operation, own_contract)[0])
    limits = ((contract.concurrency, concurrency_key), (contract.rate, rate_key), (contract.fair, fair_key))
    for policy, key in limits:
        if policy is not None and policy.rule and policy.rule.function is not None:
            keys.append(key)
    return keys


def lock_key(operation: Any, contract: Contract) -> str:
    """Return the text of an operation's lock.

    Raises:
        OptionsError: The function of its class returned no key.
        NotSerializable: A prop of the key has no JSON form.
    """
    lock = contract.lock
    assert lock is not None  # noqa: S101 - callers have checked
    name, rule = lock.group or contract.key_names[0], lock.rule
    if rule is None:
        return name
    key_values = _key_values(rule, operation, contract, f"{contract.cls.__qualname__}.lock")
    if rule.template is not None:
        return cast("str", key_values)
    if rule.function is None:
        # Different keys have different texts: shop.Transfer(account=1).
        return f"{name}({', '.join(f'{prop}={_json(value)}' for prop, value in key_values.items())})"
    # Marked, so that a number and its text are different keys.
    text = key_values if isinstance(key_values, str) else f"={json.dumps(key_values, sort_keys=True, allow_nan=False)}"
    return text if lock.group is None else f"{lock.group}:{text}"


def check_lock_key(operation: Any, contract: Contract) -> None:
    """Refuse an invalid key of a lock before the run is stored; a key that only a run can compute is left to the run.

    Raises:
        OptionsError: The function of its class returned no key.
    """
    if contract.lock is None or contract.lock.rule is None or contract.lock.rule.function is None:
        return
    try:
        lock_key(operation, contract)
    except OptionsError:
        raise
    except Exception:  # noqa: BLE001 - it may read a row or a server, which are there in the run
        return


def is_lock_key_secret(contract: Contract) -> bool:
    """Return whether the key of a lock may contain a sensitive prop; the key of a function may contain any prop."""
    secret, rule = contract.sensitive_props, None if contract.lock is None else contract.lock.rule
    return bool(secret) and rule is not None and (callable(rule.function) or any(n in secret for n in rule.named))


def digest(*values: Any) -> str:
    """Return the SHA-256 of the canonical JSON of the parts of a key, as 64 hexadecimal digits.

    Example:
        >>> digest("once", "shop.Pay", {"order": 7}) == digest("once", "shop.Pay", {"order": 7})
        True
        >>> len(digest("once"))
        64
    """
    return hashlib.sha256(_json(values).encode()).hexdigest()


def _digests(
    kind: str, contract: Contract, key_values: Any, rule: KeyRule | None, group: str | None
) -> tuple[str, ...]:
    names = (group,) if group is not None else contract.key_names
    variants = [key_values, *(_earlier_key_values(rule, key_values, contract) if rule is not None else ())]
    digests = (digest(kind, name, variant) for variant in variants for name in names)
    return tuple(dict.fromkeys(itertools.islice(digests, MAX_VARIANTS)))


def _key_values(rule: KeyRule, operation: Any, contract: Contract, where: str) -> Any:
    """Return the values of a key as JSON: the result of the function, the template's text, or the props by name."""
    if rule.function is not None:
        return _canonical_json(rule.function(operation), where)
    props = _props(rule, contract)
    values = encode_key_props(contract.cls.__qualname__, props, operation.__dict__)
    if rule.template is None:
        return values
    texts = {prop.name: _text(values[prop.key_name]) for prop in props}
    # Percent-encoded, so that no value contains the separators of the template.
    return rule.template.format_map({name: quote(text, safe="") for name, text in texts.items()})


def _earlier_key_values(rule: KeyRule, key_values: Any, contract: Contract) -> Iterator[Any]:
    """Yield the parts of the same key under the current and earlier names of its props."""
    if rule.function is not None or rule.template is not None:
        return
    props = _props(rule, contract)
    names = [dict.fromkeys((prop.key_name, *prop.options.aliases, prop.name)) for prop in props]
    for chosen_names in itertools.islice(itertools.product(*names), 1, MAX_VARIANTS):
        yield {name: key_values[prop.key_name] for prop, name in zip(props, chosen_names, strict=True)}


def _props(rule: KeyRule, contract: Contract) -> tuple[Prop, ...]:
    is_all = not rule.named and rule.template is None
    return tuple(prop for prop in contract.props if is_all or prop.name in rule.named)


def _canonical_json(value: object, where: str) -> Any:
    """Return the result of a key function as JSON that is the same for equal values."""
    if _is_empty(value):
        raise OptionsError(f"{where}: its function returned {value!r}; expected a str, a number or a tuple.")
    try:
        return plain_key(value)
    except NotSerializable as error:
        raise OptionsError(
            f"{where}: its function returned {type(value).__name__}, which has no JSON form ({error}). "
            "Return a str, a number or a tuple of them."
        ) from None


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, (str, bytes, tuple, list, dict, set, frozenset)) and not value)


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)
