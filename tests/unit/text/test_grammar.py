"""The web UI's prompt grammar, as its users describe it."""

import math
import time

import pytest

from sfumato.text.grammar import Span, has_bare_brackets, parse, settle, take_tags, words


def weights(text: str) -> list[list[tuple[str, float]]]:
    return [[(span.text, round(span.weight, 4)) for span in part] for part in parse(text)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a cat",
        "a cat, 5:30 in the morning",
        "what? a cat: the best! 100% <cat-toy> {x}",
        "BREAKFAST, a BREAKer",
        "a  b\n c\\d",
    ],
)
def test_a_text_without_brackets_is_one_span_as_it_stands(text: str) -> None:
    assert parse(text) == [[Span(text)]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a (cat) here", [("a ", 1), ("cat", 1.1), (" here", 1)]),
        ("((cat))", [("cat", 1.21)]),
        ("[cat] [[dog]]", [("cat", 0.9091), (" ", 1), ("dog", 0.8264)]),
        ("(cat:1.3)", [("cat", 1.3)]),
        ("(cat : 1.3 )", [("cat ", 1.3)]),
        ("(cat:0)", [("cat", 0)]),
        ("(cat:-.5)", [("cat", -0.5)]),
        ("(a (b:1.5) c:2)", [("a ", 2), ("b", 3), (" c", 2)]),
        ("(a [b]:2)", [("a ", 2), ("b", 1.8182)]),
        ("(cat:dog:1.3)", [("cat:dog", 1.3)]),
        ("(a:1) (b:1.0) c", [("a b c", 1)]),
        ("a \\(b\\) \\[c\\] \\\\", [("a (b) [c] \\", 1)]),
        ("(a \\(b\\):1.2)", [("a (b)", 1.2)]),
        ("never (closed [at all", [("never ", 1), ("closed ", 1.1), ("at all", 1)]),
        ("opened) nowhere] :1.3)", [("opened) nowhere] :1.3)", 1)]),
        ("a smile :) and (;", [("a smile :) and ", 1), (";", 1.1)]),
        ("()", [("", 1)]),
    ],
)
def test_brackets_weigh(text: str, expected: list[tuple[str, float]]) -> None:
    assert weights(text) == [expected]


def test_break_begins_a_part_and_keeps_the_weight() -> None:
    assert weights("a BREAK b") == [[("a", 1)], [("b", 1)]]
    assert weights("(a BREAK b:1.5)BREAK c") == [[("a", 1.5)], [("b", 1.5)], [("c", 1)]]
    assert weights("BREAK a BREAK BREAK b BREAK") == [[("a", 1)], [("b", 1)]]
    assert weights("BREAK") == [[("", 1)]]


@pytest.mark.parametrize(
    ("text", "read", "found"),
    [
        ("a [cat:dog:0.5] b", "a dog b", [("[cat:dog:0.5]", "dog")]),
        ("[cat:10]", "cat", [("[cat:10]", "cat")]),
        ("[cat::10]", "cat", [("[cat::10]", "cat")]),
        ("[:cat:.5]", "cat", [("[:cat:.5]", "cat")]),
        ("[(a:1.2):(b:1.3):0.5]", "(b:1.3)", [("[(a:1.2):(b:1.3):0.5]", "(b:1.3)")]),
        ("[a|b|c]", "a, b, c", [("[a|b|c]", "a, b, c")]),
        ("[x] [x:y] [[x]]", "[x] [x:y] [[x]]", []),
        ("\\[a:b:3\\] (a:b:3)", "\\[a:b:3\\] (a:b:3)", []),
        ("a] [b [c:d:1]", "a] [b d", [("[c:d:1]", "d")]),
        ("[[a:b:1]|c]", "b, c", [("[a:b:1]", "b"), ("[b|c]", "b, c")]),
    ],
)
def test_what_changes_during_the_steps_is_held(text: str, read: str, found: list[tuple[str, str]]) -> None:
    assert settle(text) == (read, found)


@pytest.mark.parametrize(
    "text", ["(", "[", "[[(", "([)]", ":1", ":1)", "[a|", " ", ": ", "<a:", "1", ":" + "1" * 99, "\\", "BREAK "]
)
def test_no_text_takes_long_to_read(text: str) -> None:
    """As a server gets them: a length squared would be minutes."""
    hostile = text * (50_000 // len(text))
    start = time.perf_counter()
    parts = parse(settle(take_tags(hostile)[0])[0])
    settle(f"[a:{hostile}]")
    assert time.perf_counter() - start < 10
    assert all(math.isfinite(span.weight) for part in parts for span in part)


def test_tags_are_taken_out() -> None:
    assert take_tags("a <lora:x y:0.8> b <cat-toy><hypernet:z>") == ("a  b <cat-toy>", ["<lora:x y:0.8>", "<hypernet:z>"])
    assert take_tags("1 < 2: 3 > 2") == ("1 < 2: 3 > 2", [])


def test_words_and_bare_brackets() -> None:
    assert words(parse("a (red:1.3) [ball] BREAK \\(x\\)")) == "a red ball (x)"
    assert [has_bare_brackets(text) for text in ("(a:1.2)", "a", "\\(a\\)", "(a)", "[a] (b:1.2)", "(a")] == [False] * 3 + [
        True
    ] * 3
