"""What YAML's parser complains about, in the words of someone who writes a configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass

import yaml

from scheduler_service.config.problems import Position

# `key: value` or `- key: value` where the value begins with a character that YAML keeps for itself
_SPECIAL = re.compile(r"""(?:^|[\s{,-])(?P<key>[\w.-]+)\s*:\s+(?P<value>[*@`%&].*)""")
_FLOW_END = re.compile(r"""\s*(,\s*[\w."'-]+\s*:.*|[}#].*)$""")

_LINE_END = re.compile(r"\r\n|[\r\n\x85\u2028\u2029]")  # what YAML counts as one
_NO_SPACE = re.compile(r"\s*(?:-\s+)?(?=[\w.-]+:[^\s:/])[^\s'\"]+\s*")
_AFTER_QUOTE = "nothing can follow a closing quote; put the whole value in quotes"

# what PyYAML says (context: problem) → where the mistake is, `here` or where the `context` began, and what it is
_COMPLAINTS = (
    (
        "mapping values are not allowed",
        "here",
        "this ':' is not expected; indent the line as its neighbours, or put a value with ': ' in it in quotes",
    ),
    (
        "escape",
        "here",
        "in double quotes a backslash begins an escape, and this one is not known; use single quotes",
    ),
    ("quoted scalar", "context", "the quote that opens here is never closed"),
    ("could not find expected ':'", "context", "this line is neither 'key: value' nor '- item'"),
    ("flow node", "here", "a value is missing: a [ or {{ further up is not closed, or there is a comma too many"),
    ("flow mapping", "here", "a comma, or the end of the {{ in line {line}, is missing before this"),
    ("flow sequence", "here", "a comma, or the end of the [ in line {line}, is missing before this"),
    ("block mapping.*found '[]},]'", "here", "this {character!r} closes nothing; remove it"),
    ("block mapping.*found '<scalar>'", "here", _AFTER_QUOTE),
    (
        "block (mapping|collection).*found",
        "here",
        "this line is indented unlike its neighbours, which begin in line {line}",
    ),
    ("expected the node content", "here", "a value cannot begin with {character!r}; put it in quotes"),
    ("sequence entries are not allowed", "here", "a list cannot begin here; put its first '- item' on the next line"),
    ("mapping keys are not allowed", "here", "a value cannot begin with '? '; put it in quotes"),
    (r"\btag\b", "context", "tags are not used here; put a value that begins with ! in quotes"),
    ("directive", "context", "a line cannot begin with '%'; put a text that does in quotes"),
    ("block scalar", "here", "the text after | or > begins on the next line"),
    (
        "<document start>",
        "here",
        "this line begins further left than the first one; begin both in the same column",
    ),
)


@dataclass(frozen=True, slots=True)
class SyntaxProblem:
    """Where and what; `repaired` is the whole text with the value in quotes, where that is surely meant."""

    position: Position
    message: str
    repaired: str | None = None


def explain(error: yaml.MarkedYAMLError, text: str) -> SyntaxProblem:
    """Return what is wrong, for a person; `text` is what was parsed."""
    mark = error.problem_mark or error.context_mark
    context = error.context_mark or mark
    if mark is None or context is None:
        return SyntaxProblem(Position(1, 1), f"this is not YAML: {error.problem}")
    lines = _LINE_END.split(text)
    line = lines[mark.line]
    complaint = f"{error.context or ''}: {error.problem or ''}"
    if "\t" in line[: len(line) - len(line.lstrip())] or "'\\t'" in complaint:
        return SyntaxProblem(Position(mark.line + 1, line.find("\t") + 1), "a tab cannot indent; use spaces")
    if re.search(r"scanning an (alias|anchor)", complaint):
        return _special(text, line, context)
    if "cannot start any token" in complaint:
        return _special(text, line, mark)
    if re.search(r"find expected ':'|mapping values are not allowed", complaint):
        # `key:value` is text that goes on in the next line, so that is where the parser stumbles
        for number in {max(mark.line - 1, 0), context.line}:
            if _NO_SPACE.fullmatch(lines[number]):
                indent = len(lines[number]) - len(lines[number].lstrip())
                message = "a space is missing after the colon: write 'key: value'"
                return SyntaxProblem(Position(number + 1, indent + 1), message)
    if re.search("flow (mapping|sequence)", complaint) and line[: mark.column + 1].endswith("${"):
        message = "between { } or [ ] a value with ${…} in it has to be in quotes"
        return SyntaxProblem(Position(mark.line + 1, mark.column), message)
    for pattern, place, template in _COMPLAINTS:
        if re.search(pattern, complaint):
            at = mark if place == "here" else context
            message = template.format(line=context.line + 1, character=line[mark.column : mark.column + 1])
            return SyntaxProblem(Position(at.line + 1, at.column + 1), message)
    return SyntaxProblem(Position(mark.line + 1, mark.column + 1), f"this is not YAML: {error.problem}")


def _special(text: str, line: str, mark: yaml.Mark) -> SyntaxProblem:
    """Return what to do about a value that begins with a character of YAML's own.

    No value is shown but that of `cron`: any other may be a secret, whatever its key.
    """
    here = Position(mark.line + 1, mark.column + 1)
    for found in _SPECIAL.finditer(line):
        if found.start("value") == mark.column:
            value = _FLOW_END.sub("", found["value"]) if "{" in line[: mark.column] else found["value"]
            value = value.partition(" #")[0].rstrip()
            if found["key"] != "cron":
                break
            if "'" in value:
                return SyntaxProblem(here, "put the expression in quotes")
            mended = f"{text[: mark.index]}'{value}'{text[mark.index + len(value) :]}"
            return SyntaxProblem(here, f"put the expression in quotes: cron: '{value}'", mended)
    if line[: mark.column].rstrip().endswith(("'", '"')):
        return SyntaxProblem(here, _AFTER_QUOTE)
    return SyntaxProblem(here, f"a value cannot begin with {line[mark.column : mark.column + 1]!r}; put it in quotes")
