"""What somebody's tables are, as their reader would guess: keys, times, owners, labels, features.

Nothing here reads files or configs: tables go in, a proposal comes out. Names count first, in the
words of `mtrec.data.names`, then what columns hold. What a reader would not dare to guess is a
`UserError` that names the option to give.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtrec.data import names
from mtrec.data.infer_features import features_of, separator_of, title_of
from mtrec.data.infer_labels import Label, labels_of
from mtrec.data.infer_requests import context_of, repeats_of, requests_of
from mtrec.data.profile import Owners, Profile, belongs, owners, profiles, span_of
from mtrec.data.requests import CONTEXT
from mtrec.errors import UserError

# Lowest and highest whole number for what counts time in the unit, from 1979 to 2100.
_SINCE_1970 = {
    unit: (300_000_000 * per_second, 4_102_444_800 * per_second)
    for unit, per_second in (("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9))
}


@dataclass(frozen=True)
class Proposal:
    """What the tables are taken for.

    Attributes:
        options: Options of `data=table` by name, such as `user_key`.
        labels: What heads could learn, the rating first if there is one.
        positive: The label of 1 for an item that was taken and 0 for one that was shown; None if
            every row is of an item that was taken.
        features: Features of the `user`, the `item` and the `request` by name, as config nodes.
        unsure: Sentences about what another reader might see otherwise.
    """

    options: Mapping[str, Any]
    labels: Sequence[Label]
    positive: str | None
    features: Mapping[str, Mapping[str, Any]]
    unsure: Sequence[str]


def propose(
    log: Any, *, users: Any = None, items: Any = None, given: Mapping[str, Any] | None = None
) -> Proposal:
    """Proposes how to read tables.

    Args:
        log: Interactions, a `pyarrow.Table`.
        users: One row a user, the same; None if there is no such table.
        items: One row an item.
        given: Options that are decided, by name; `None` among them says that there is no such
            column.

    Raises:
        UserError: Something must be said that cannot be guessed.
    """
    given, unsure = dict(given or {}), list[str]()
    columns = profiles(log)
    _refuse_without_names(columns)
    tables = {"user": None if users is None else profiles(users)}
    tables["item"] = None if items is None else profiles(items)
    keys = _keys(columns, tables, given, unsure)
    left = {n: p for n, p in columns.items() if n not in keys.values() and not _numbers_rows(p)}
    of = {entity: owners(columns[key].codes, entity) for entity, key in keys.items()}
    time, form = _time(left, of, given, unsure)
    left.pop(time or "", None)
    left.pop(given.get("negative") or "", None)
    user, moment = columns[keys["user"]], columns.get(time or "")
    basket, request = requests_of(left, user, moment, given, unsure)
    if request is not None:
        of["request"] = owners(request, "request")
    owned = _owned(left, of, unsure)
    rows = {name: p for name, p in left.items() if name not in owned}
    found = labels_of(rows, given, unsure)
    sides, options = {}, dict[str, Any]()
    for entity, key in keys.items():
        own = [name for name, owner in owned.items() if owner == entity]
        own = given.get(f"{entity}_columns", [n for n in own if n not in (tables[entity] or {})])
        options[f"{entity}_columns"] = own
        table = {name: p for name, p in (tables[entity] or {}).items() if name != key}
        sides[entity] = table | {name: columns[name] for name in own if name in columns}
    sizes = {entity: columns[key].num_values for entity, key in keys.items()}
    title = given.get("title", title_of(sides["item"], sizes["item"]))
    separator, bags = separator_of(sides, given, without=title)
    features = {
        entity: features_of(side, sizes[entity], without=title, bags=bags, unsure=unsure)
        for entity, side in sides.items()
    }
    options["request"], context = basket, {}
    if request is not None:
        its = {n: columns[n] for n, owner in owned.items() if owner == "request" and n != basket}
        learnt = [columns[label.column] for label in found.labels]
        context = context_of(its, request, learnt, given, unsure)
    options["context"] = given.get("context", [node["column"] for node in context.values()])
    features["request"] = {n: {**f, "column": CONTEXT + f["column"]} for n, f in context.items()}
    nobody = [name for name, owner in owned.items() if owner == "nobody" and name != basket]
    if nobody:
        unsure.append(f"{', '.join(nobody)}: neither label nor feature, so left out.")
    if moment and not (found.rating or found.positive):
        codes = user.codes, columns[keys["item"]].codes, moment.codes
        options |= repeats_of(*codes, given, unsure)
    options |= {"user_key": keys["user"], "item_key": keys["item"], "title": title}
    options |= {"timestamp": time, "bag_columns": bags}
    options |= {"timestamp_format": form} if time else {}
    options |= {"bag_separator": separator} if bags else {}
    options["rating"] = found.rating
    options["labels"] = [label.column for label in found.labels if label.column != found.rating]
    return Proposal(options, found.labels, found.positive, features, unsure)


def _refuse_without_names(columns: Mapping[str, Profile]) -> None:
    if not any(names.words(name) for name in columns):
        raise UserError(
            "The first row of `interactions` must hold the names of its columns; got "
            f"{', '.join(columns)}. Put a row such as user_id,item_id,rating before it."
        )


def _numbers_rows(column: Profile) -> bool:
    """Whether a column counts the rows of the file."""
    values, rows = column.distinct, len(column.codes)
    apart = column.whole and len(values) == rows and np.ptp(values) == rows - 1
    return bool(apart) and not (names.names_time(column.name) or names.names_amount(column.name))


def _keys(
    columns: Mapping[str, Profile],
    tables: Mapping[str, Mapping[str, Profile] | None],
    given: Mapping[str, Any],
    unsure: list[str],
) -> dict[str, str]:
    """The id columns of users and items."""
    keys = {entity: given.get(f"{entity}_key") for entity in ("user", "item")}
    for option in ("user_key", "item_key", "rating", "timestamp", "request"):
        name = given.get(option)
        if name is not None and name not in columns:
            raise UserError(
                f"`{option}` must name a column of `interactions`; got {name!r}, it has "
                f"{', '.join(columns)}. Set `{option}` to one of them."
            )
    for entity in keys:
        keys[entity] = keys[entity] or _shared_key(entity, columns, tables[entity])
    for entity in keys:
        keys[entity] = keys[entity] or _named_key(entity, columns, [*keys.values()], unsure)
    for entity in keys:
        keys[entity] = keys[entity] or _only_key(entity, columns, keys, unsure)
    return {entity: key for entity, key in keys.items() if key is not None}


def _shared_key(
    entity: str, columns: Mapping[str, Profile], table: Mapping[str, Profile] | None
) -> str | None:
    """The column of the log that is also in the table of its owners, each value once there."""
    if table is None:
        return None
    shared = [n for n, p in table.items() if n in columns and p.num_values == len(p.codes)]
    shared.sort(key=lambda name: -names.names_key(name, entity))
    return shared[0] if shared else None


def _named_key(
    entity: str, columns: Mapping[str, Profile], taken: Sequence[str | None], unsure: list[str]
) -> str | None:
    """The column that is named as ids of the entity most clearly."""

    def could_be(column: Profile, level: int) -> bool:
        is_id = column.kind == "text" or column.whole
        flag = column.kind == "numbers" and column.num_values <= 2 and level < 3
        return is_id and not flag and (level > 1 or column.kind == "text")

    levels = {name: names.names_key(name, entity) for name in columns if name not in taken}
    levels = {name: level for name, level in levels.items() if could_be(columns[name], level)}
    best = max(levels.values(), default=0)
    found = [name for name, level in levels.items() if level == best > 0]
    if len(found) < 2:
        return found[0] if found else None
    # The finest of several, such as the article of a product, says which the others are.
    finest = [
        name
        for name in found
        if all(_tells(columns[name], columns[other]) for other in found if other != name)
    ]
    if len(finest) != 1:
        raise UserError(
            f"`{entity}_key` must be given, as several columns may hold the ids of {entity}s: "
            f"{', '.join(found)}. Set `{entity}_key` to one of them."
        )
    unsure.append(f"{finest[0]} are the {entity}s, and not {', '.join({*found} - {*finest})}.")
    return finest[0]


def _tells(column: Profile, other: Profile) -> bool:
    """Whether a value of a column says what the other's is, and not the other way round."""
    forth, back = (owners(c.codes, "") for c in (column, other))
    return belongs(forth, other.codes) is not None and belongs(back, column.codes) is None


def _only_key(
    entity: str,
    columns: Mapping[str, Profile],
    keys: Mapping[str, str | None],
    unsure: list[str],
) -> str:
    """The one column of ids that is left, where the other key is known.

    Raises:
        UserError: There is none, or several.
    """
    left = [
        name
        for name, p in columns.items()
        if name not in keys.values()
        and not names.names_time(name)
        and names.names_key(name, "request") < 2
        and (p.kind == "text" or (p.whole and names.names_id(name)))
    ]
    (known,) = {*keys} - {entity}
    other = keys[known]
    of = owners(columns[other].codes, known) if other else None
    if of is not None:
        left = [name for name in left if belongs(of, columns[name].codes) is None]
    if of is None or len(left) != 1:
        could_be = f" ({', '.join(left)} might)" if left else ""
        raise UserError(
            f"`{entity}_key` must be given, as no column of `interactions` says by its name "
            f"that it holds the ids of {entity}s{could_be}; it has {', '.join(columns)}. Set "
            f"`{entity}_key` to one of them."
        )
    unsure.append(f"{left[0]} are the {entity}s, as nothing else could be.")
    return left[0]


def _time(
    left: Mapping[str, Profile],
    of: Mapping[str, Any],
    given: Mapping[str, Any],
    unsure: list[str],
) -> tuple[str | None, str | None]:
    """The column of times, and how it is written."""
    if "timestamp" in given:
        name = given["timestamp"]
        return name, _form(left.get(name), given, unsure)
    found = {name: forms for name, p in left.items() if (forms := _forms(p, []))}
    owned = [n for n in found if any(belongs(o, left[n].codes) is not None for o in of.values())]
    # A property of users or items, such as a birthday, unless it is all there is.
    found = {n: f for n, f in found.items() if n not in owned or len(owned) == len(found)}
    named = [n for n in found if names.names_time(n)] or [*found]
    named = [n for n in named if "timestamp" in names.words(n)] or named
    # Of date and time the one that tells the other.
    named = [
        n for n in named if all(_tells(left[n], left[other]) for other in named if other != n)
    ] or named
    if not named:
        unsure.append("No column holds times: the order of rows is all that is known.")
        return None, None
    if len(named) > 1:
        raise UserError(
            f"`timestamp` must be given, as several columns hold times: {', '.join(named)}. Set "
            "`timestamp` to the one at which an interaction happened."
        )
    (name,) = named
    if not names.names_time(name):
        unsure.append(f"{name} are times, by their values alone.")
    return name, _form(left[name], given, unsure)


def _form(column: Profile | None, given: Mapping[str, Any], unsure: list[str]) -> str | None:
    """How times are written, as ``timestamp_format``.

    Raises:
        UserError: There are several readings, such as of `11/1/2000`, and none is far more likely.
    """
    if "timestamp_format" in given or column is None:
        return given.get("timestamp_format")
    forms = _forms(column, unsure)
    if len(forms) < 2:
        return forms[0] if forms else None
    # Read in the wrong order, the days of two weeks lie months apart.
    spans = sorted((span_of(column, form), str(form)) for form in forms)
    likely = spans[0][1]
    if not 0 < 4 * spans[0][0] < spans[1][0]:
        raise UserError(
            f"`timestamp_format` must be given, as {column.values[0].as_py()!r} and all other "
            f"values of {column.name!r} can be read as {' or as '.join(map(str, forms))}. Set "
            f"`timestamp_format`='{likely}'."
        )
    unsure.append(f"{column.name} are written as {likely}, as it brings them closest together.")
    return likely


def _forms(column: Profile, unsure: list[str]) -> tuple[str | None, ...]:
    """What ``timestamp_format`` may be of a column; nothing if it holds no times."""
    if column.kind == "moments":
        return column.forms
    if not column.whole or not column.num_values:
        return (None,) if _counts(column, "s") and names.names_time(column.name) else ()
    days = column.distinct.astype(np.int64)
    if np.all((days > 19000100) & (days < 21010101) & _has_day(days)):
        return ("%Y%m%d",)
    for unit in _SINCE_1970:
        if _counts(column, unit):
            return (None if unit == "s" else unit,)
    if not names.names_time(column.name) or column.num_values < 3:
        return ()
    if names.names_day(column.name):
        unsure.append(f"{column.name} counts days.")
        return ("D",)
    unsure.append(f"{column.name} counts another unit of time: only its order tells.")
    return (None,)


def _counts(column: Profile, unit: str) -> bool:
    low, high = _SINCE_1970[unit]
    values = column.distinct
    return column.kind == "numbers" and bool(np.all((values >= low) & (values <= high)))


def _has_day(days: np.ndarray) -> np.ndarray:
    month, day = days // 100 % 100, days % 100
    return (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)


def _owned(
    left: Mapping[str, Profile], of: Mapping[str, Owners], unsure: list[str]
) -> dict[str, str]:
    """Whose property each column is: of `user`, `item`, `request` or `nobody`, if of no row."""
    owned: dict[str, str] = {}
    for name, column in left.items():
        owner = _owner(column, of, unsure)
        if column.num_values < 2 and owner not in ("user", "item"):
            owner = "nobody"
        if owner:
            owned[name] = owner
    return owned


def _owner(column: Profile, of: Mapping[str, Owners], unsure: list[str]) -> str | None:
    named = names.names_entity(column.name)
    if column.kind in ("lists", "vectors"):
        return named or "item"
    surely = {entity: belongs(o, column.codes) for entity, o in of.items()}
    found = {entity: sure for entity, sure in surely.items() if sure is not None}
    # What belongs to a user belongs to each of their requests too.
    for entity in ("user", "item"):
        if entity in found and (len({*found} & {"user", "item"}) == 1 or entity == named):
            return entity
    if found:
        return max(found, key=lambda entity: found[entity])
    few = named is not None and len(of[named].starts) < 10
    if few and not (names.names_amount(column.name) or names.names_rating(column.name)):
        unsure.append(f"{column.name} belongs to the {named}, by its name alone.")
        return named
    if names.names_context(column.name):
        alone = "request" in of and not len(of["request"].starts)
        return "request" if alone and not names.names_place(column.name) else "nobody"
    if column.kind in ("text", "moments") or names.names_id(column.name):
        return "nobody"
    return None
