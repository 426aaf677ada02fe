"""What the names of columns say, in the words that logs of shops, films, music and news use."""

import re


def _set(words: str) -> set[str]:
    return set(words.split())


_ID = {"id", "key", "no", "num", "number", "nr", "code", "index", "idx", "uuid", "hash"}
_TITLE = {"name", "title"}
_USER = _set(
    "user customer member client visitor buyer shopper reader listener student viewer person "
    "account profile reviewer patient household subscriber consumer player guest cust usr"
)
_ITEM = _set(
    "item product movie film book article song track artist business video game app news "
    "restaurant recipe hotel listing offer stock good lecturer course ad content podcast episode "
    "show anime joke beer wine venue poi post document"
)
# Ids in one word.
_KEYS = {"user": {"uid"}, "item": {"iid", "sku", "asin", "isbn"}}
_ENTITIES = {"user": _USER, "item": _ITEM}
_REQUEST = _set("order basket session invoice transaction cart ticket visit receipt request")
_ALL = _USER | _ITEM | _REQUEST

_TIME = _set("time date timestamp datetime ts dt day datum when created at clock week")
_RATING = _set("rating rate rated stars star score grade overall preference")
# How many, how much or how long.
_AMOUNT = _set(
    "amount quantity qty count counts plays playcount views listens clicks visits spend spent "
    "sales revenue total cost paid turnover hours minutes seconds duration dwell length playtime "
    "watchtime units weight ms value"
)
# What a user did with an item that they were shown.
_TAKEN = _set(
    "click clicked purchase purchased buy bought conversion converted order ordered install "
    "installed played watched viewed read consumed"
)
_OPINION = _set("like liked dislike favorite favourite recommended satisfied helpful share")
# What is known when one asks.
_CONTEXT = _set(
    "hour weekday weekend month season device platform browser os store shop channel country city "
    "region position rank slot page price discount promotion weather holiday language"
)
# Of these what belongs to an item on offer, and not to the moment.
_PLACE = _set("position rank slot page price discount promotion")
_CATEGORY = _set(
    "class subclass category subcategory cat code type group genre zip zipcode postcode pin dept "
    "department brand region store id segment cluster sector gender sex status"
)


def words(name: str) -> list[str]:
    """The words of a column's name, in small letters: `SalesPrice`, `sales_price`, `salesprice`."""
    plain = re.sub(r"([a-z\d])([A-Z])", r"\1 \2", name.split(":")[0])
    plain = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1 \2", plain)
    return [part for word in re.findall(r"[a-z]+", plain.lower()) for part in _parts(word)]


def _parts(word: str) -> list[str]:
    """A compound of a known entity and what it has, such as `userid`, in two."""
    for tail in (*_ID, *_TITLE):
        if word.endswith(tail) and _singular(word.removesuffix(tail)) in _ALL:
            return [word.removesuffix(tail), tail]
    return [word]


def _singular(word: str) -> str:
    return word.removesuffix("s") if word.removesuffix("s") in _ALL else word


def names_key(name: str, entity: str) -> int:
    """How clearly a name is that of the ids of `user`, `item` or `request`: 3, 2, 1, or 0."""
    found = words(name)
    entities = _REQUEST if entity == "request" else _ENTITIES[entity]
    if len(found) == 1 and found[0] in _KEYS.get(entity, ()):
        return 3
    of = [word for word in found if _singular(word) in entities]
    rest = [word for word in found if word not in of]
    if not of:
        return 0
    if not rest:
        return 2
    if set(rest) <= _ID:
        return 3
    return 1 if set(rest) <= _TITLE else 0


def names_entity(name: str) -> str | None:
    """`user` or `item` where a name says of which of them a column is, such as `user_age`."""
    singular = {_singular(word) for word in words(name)}
    of = [entity for entity, known in _ENTITIES.items() if singular & known]
    return of[0] if len(of) == 1 else None


def names_id(name: str) -> bool:
    """Whether a name is that of numbers that only tell things apart."""
    return bool({"id", "key", "code", "uuid", "hash", "index"} & set(words(name)))


def names_time(name: str) -> bool:
    """Whether a name is that of moments, and not of a part of them such as the hour of day."""
    found = set(words(name))
    return bool(found & _TIME) and not found & (_AMOUNT | _CONTEXT | {"of"})


def names_day(name: str) -> bool:
    """Whether a name is that of counted days."""
    return bool({"day", "date"} & set(words(name)))


def names_title(name: str) -> int:
    """How clearly a name is that of what people read of an item: 3, 2, 1, or 0."""
    found = set(words(name))
    return next((3 - n for n, w in enumerate(("title", "name", "description")) if w in found), 0)


def names_rating(name: str) -> bool:
    """Whether a name is that of ratings."""
    return bool(_RATING & set(words(name)))


def names_amount(name: str) -> bool:
    """Whether a name is that of counts, amounts or durations."""
    return bool(_AMOUNT & set(words(name)))


def names_taken(name: str) -> bool:
    """Whether a name is that of marks on items that were taken, beside those that were shown."""
    return bool(_TAKEN & set(words(name)))


def names_outcome(name: str) -> bool:
    """Whether a name is that of what came of a row."""
    return names_taken(name) or bool(_OPINION & set(words(name)))


def names_context(name: str) -> bool:
    """Whether a name is that of what is known when one asks."""
    found = words(name)
    # The last of several words, it is a place in a sequence.
    place = len(found) > 1 and found[-1] == "order"
    part_of_time = "of" in found and bool(_TIME & {*found})
    return (
        place or part_of_time or (bool(_CONTEXT & {*found}) and not {*found} & (_AMOUNT | _RATING))
    )


def names_place(name: str) -> bool:
    """Whether a name is that of how an item was offered, such as its price or its place."""
    return bool(_PLACE & set(words(name)))


def names_category(name: str) -> bool:
    """Whether a name is that of codes, even where they are numbers."""
    return bool(_CATEGORY & set(words(name)))
