"""Formulas as docstrings write them, ``z = alpha x0 + sigma eps``, set as MathML.

A docstring has to be read in a terminal, so its formulas are plain text. Browsers set MathML by
themselves, so the site needs no script, no font and no network for them. What is not surely a
formula, such as ``eta=1`` or ``denoise(z, logsnr) -> x0``, stays code.

    series   = relation (("," | ";" | "||" | " | ") relation)*
    relation = sum (("=" | "~" | "<" | ...) sum)*
    sum      = ["+" | "-"] product (("+" | "-" | "±") product)*
    product  = tight+ (" / " tight+)*     what stands side by side is multiplied
    tight    = power ("/" power)*         without blanks a slash binds closer, and stays a slash
    power    = atom ["^" ["-"] atom | "!"]
    atom     = number | word | "sqrt" "(" series ")" | "(" series ")" | "[" series "]" | "|" sum "|"
             | "<" series ">"
"""

import re
from html import escape

_LETTERS = "alpha-α beta-β gamma-γ delta-δ eps-ε eta-η theta-θ mu-μ pi-π rho-ρ sigma-σ tau-τ phi-φ"
GREEK = dict(re.findall(r"(\w+)-(\w)", _LETTERS))
# Names that stand upright before what they are taken of.
_FUNCTIONS = """
    exp expm1 log log2 ln sin cos tan atan tanh sigmoid logit logsigmoid min max ceil frac round
    eig tr KL N Laplace div std mean clip sign
"""
FUNCTIONS = set(_FUNCTIONS.split())
# Quantities with a name of several letters.
_QUANTITIES = """
    logsnr SNR noise cond uncond other loss weight var scatter momentum value slope curvature rule
    guided weak scale mse kl loglik dims before params ema decay churn orthogonal parallel low high
    logvar next prev time shift resolution base batch position image error
"""
QUANTITIES = set(_QUANTITIES.split())
RELATIONS = {"=": "=", "~": "∼", "<": "&lt;", ">": "&gt;", "<=": "≤", ">=": "≥", "∝": "∝",
             "!=": "≠", "≈": "≈"}  # fmt: skip
_SEPARATORS = {",": ",", ";": ";", "||": "‖", "|": "|"}
_TOKEN = re.compile(
    r"(?P<space>\s+)|(?P<number>\d+(?:\.\d+)?)|(?P<word>[^\W\d_][\u0302]?[^\W_]*(?:_\w+)?)"
    r"|(?P<sign><=|>=|!=|\|\||\.\.\.|[-+*/^_(){}\[\],;!|=~<>∝≈±×.])"
)
# Without one of these a text is a name or a call.
_TELLING = re.compile(r" (?:=|~|∝|≈|<|>|<=|>=|\+|-|±) |[/^|]|sqrt\(")
_NAME = re.compile(r"([^\W\d_][\u0302]?[^\W\d_]*)(\d*)$")


class NotAFormula(ValueError):
    """Text that is code, or that this grammar does not know."""


def mathml(text: str, *, block: bool = False) -> str:
    """A formula as MathML.

    Args:
        text: as a docstring has it between double backticks.
        block: whether it stands alone on its lines.

    Returns:
        a ``math`` element.

    Raises:
        NotAFormula: if it is code, or has names that are not known as quantities.

    >>> mathml("x0 = z / alpha")[26:-7]
    '<mrow><msub><mi>x</mi><mn>0</mn></msub><mo>=</mo><mfrac><mi>z</mi><mi>α</mi></mfrac></mrow>'
    >>> mathml("eta=1")
    Traceback (most recent call last):
    docs.site.formulas.NotAFormula: eta=1
    """
    text = " ".join(text.split())
    if not _TELLING.search(text) or "->" in text or "--" in text:
        raise NotAFormula(text)
    display = ' display="block"' if block else ' displaystyle="true"'
    return f"<math{display}>{_Parser(text).whole()}</math>"


class _Parser:
    """One text on its way from left to right."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.tokens: list[tuple[str, str, bool]] = []  # kind, text, whether a blank stands before
        blank, end = False, 0
        for found in _TOKEN.finditer(text):
            if found.start() != end:
                raise NotAFormula(text)
            end = found.end()
            kind = str(found.lastgroup)
            if kind != "space":
                self.tokens.append((kind, found[0], blank))
            blank = kind == "space"
        if end != len(text):
            raise NotAFormula(text)

    def whole(self) -> str:
        content = self.series()
        if self.at != len(self.tokens):
            raise NotAFormula(self.text)
        return content

    def peek(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def blank(self, ahead: int = 0) -> bool:
        at = self.at + ahead
        return at < len(self.tokens) and self.tokens[at][2]

    def take(self, *expected: str) -> str:
        if self.at >= len(self.tokens) or (expected and self.peek() not in expected):
            raise NotAFormula(self.text)
        self.at += 1
        return self.tokens[self.at - 1][1]

    def series(self) -> str:
        parts = [self.relation()]
        # "|" between blanks is "given"; the absolute value has none inside
        while self.peek() in {",", ";", "||"} or (self.peek() == "|" and self.blank(1)):
            parts += [_operator(_SEPARATORS[self.take()]), self.relation()]
        return _row(parts)

    def relation(self) -> str:
        parts = [self.sum()]
        while self.peek() in RELATIONS and self.blank() and self.blank(1):
            parts += [f"<mo>{RELATIONS[self.take()]}</mo>", self.sum()]
        return _row(parts)

    def sum(self) -> str:
        parts = []
        if self.peek() in {"+", "-", "±"}:
            parts.append(_operator(self.take(), "prefix"))
        parts.append(self.product())
        while self.peek() in {"+", "-", "±"}:
            parts.append(_operator(self.take()))
            if self.peek() == "...":
                self.take()
                parts.append("<mo>…</mo>")
            else:
                parts.append(self.product())
        return _row(parts)

    def product(self) -> str:
        content = _row(self.side_by_side())
        while self.peek() == "/":
            self.take()
            # d / 2 h is d / (2 h), a / sin w is a / (sin w); a / b c is (a / b) c
            whole = self.peek().isdigit() or self.peek() in FUNCTIONS
            below = self.side_by_side() if whole else [self.tight()]
            content = _fraction(content, _row(below))
            more = self.side_by_side() if self.starts() else []
            content = _row([content, *more])
        return content

    def side_by_side(self) -> list[str]:
        parts = [self.tight()]
        while self.starts():
            parts.append("<mspace width='0.17em'></mspace>" if self.blank() else "")
            if self.peek() == ".":
                self.take()
                parts.append("<mo>·</mo>")
            parts.append(self.tight())
        return [part for part in parts if part]

    def starts(self) -> bool:
        """Whether another factor follows."""
        if self.at >= len(self.tokens):
            return False
        kind, text, blank = self.tokens[self.at]
        if text == "." and blank and self.blank(1):
            return True
        if text in {"|", "<"}:
            return blank and not self.blank(1) and self.at + 1 < len(self.tokens)
        return kind in {"number", "word"} or text in {"(", "["}

    def tight(self) -> str:
        parts = [self.power()]
        while self.peek() == "/" and not self.blank() and not self.blank(1):
            parts += [f"<mo lspace='0' rspace='0'>{self.take()}</mo>", self.power()]
        return _row(parts)

    def power(self) -> str:
        base = self.atom()
        if self.peek() == "^":
            self.take()
            sign = _operator(self.take(), "prefix") if self.peek() == "-" else ""
            above = _row([sign, self.atom()]) if sign else _bare(self.atom())
            if base.startswith("<msub>"):
                inside = base.removeprefix("<msub>").removesuffix("</msub>")
                return f"<msubsup>{inside}{above}</msubsup>"
            return f"<msup>{base}{above}</msup>"
        if self.peek() == "!" and not self.blank():
            return _row([base, f"<mo>{self.take()}</mo>"])
        return base

    def atom(self) -> str:
        kind = self.tokens[self.at][0] if self.at < len(self.tokens) else ""
        if kind == "number":
            return f"<mn>{self.take()}</mn>"
        if kind == "word":
            return self.word()
        opening = self.take("(", "[", "|", "<")
        closing = {"(": ")", "[": "]", "|": "|", "<": ">"}[opening]
        inside = self.sum() if opening == "|" else self.series()
        self.take(closing)
        marks = {"<": "⟨", ">": "⟩"}
        left, right = marks.get(opening, opening), marks.get(closing, closing)
        return f"<mrow><mo>{left}</mo>{inside}<mo>{right}</mo></mrow>"

    def word(self) -> str:
        word = self.take()
        if word == "sqrt":
            self.take("(")
            inside = self.series()
            self.take(")")
            return f"<msqrt>{inside}</msqrt>"
        if word == "int":
            return "<mo>∫</mo>"
        if self.peek() == "_" or word.endswith("_"):
            raise NotAFormula(self.text)
        if word == "sum" or word.startswith("sum_"):
            index = word.removeprefix("sum").removeprefix("_")
            return f"<munder><mo>∑</mo><mi>{index}</mi></munder>" if index else "<mo>∑</mo>"
        return _symbol(word, self.text)


def _symbol(word: str, text: str) -> str:
    base, *below = word.split("_")
    found = _NAME.match(base)
    if not found:
        raise NotAFormula(text)
    letters, digits = (base, "") if base == "expm1" else (found[1], found[2])
    known = letters in GREEK or letters in FUNCTIONS or letters in QUANTITIES
    differential = letters[0] == "d" and (letters[1:] in GREEK or letters[1:] in QUANTITIES)
    single = len(letters.replace("\u0302", "")) == 1
    if not (known or single or differential or (letters[0] == "d" and len(letters) == 2)):
        raise NotAFormula(text)
    if differential or (letters[0] == "d" and len(letters) == 2):
        rest = GREEK.get(letters[1:], letters[1:])
        content = f"<mrow><mi>d</mi><mi>{rest}</mi></mrow>"
    else:
        content = f"<mi>{escape(GREEK.get(letters, letters))}</mi>"
    marks = {"hat": "^", "bar": "¯"}
    while below and below[0] in marks:
        content = f"<mover>{content}<mo>{marks[below.pop(0)]}</mo></mover>"
    index = [f"<mn>{digits}</mn>"] if digits else []
    index += [
        f"<mn>{each}</mn>" if each.isdigit() else f"<mi>{GREEK.get(each, each)}</mi>"
        for each in below
    ]
    return f"<msub>{content}{_row(index)}</msub>" if index else content


def _operator(sign: str, form: str = "infix") -> str:
    kind = f' form="{form}"' if form == "prefix" else ""
    return f"<mo{kind}>{'−' if sign == '-' else sign}</mo>"


def _row(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"<mrow>{''.join(parts)}</mrow>"


def _bare(content: str) -> str:
    """Without the brackets that only the plain text needs."""
    start, end = "<mrow><mo>(</mo>", "<mo>)</mo></mrow>"
    inside = content[len(start) : -len(end)]
    if content.startswith(start) and content.endswith(end) and _balanced(inside):
        return f"<mrow>{inside}</mrow>"
    return content


def _balanced(content: str) -> bool:
    """Whether brackets that open in it also close in it, in order."""
    depth = 0
    for mark in re.findall(r"<mo>([()])</mo>", content):
        depth += 1 if mark == "(" else -1
        if depth < 0:
            return False
    return depth == 0


def _fraction(above: str, below: str) -> str:
    return f"<mfrac>{_bare(above)}{_bare(below)}</mfrac>"
