"""The table of guidance rules: words, parameters and their ranges, functions from outside."""

import pickle

import pytest
import torch

from vfn import ops
from vfn.ops import GUIDANCE_RULES, guidance_rule
from vfn.ops.guidance_rules import GuidanceRuleEntry

Z = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("word", GUIDANCE_RULES)
def test_every_rule_is_the_conditional_at_no_strength(word):
    rule = guidance_rule(word)
    got = rule.combine(Z, Z + 1, 2 * Z, torch.zeros(2), 0.0, None)
    assert torch.equal(got.x0, Z + 1)
    assert not rule.remembers
    assert GUIDANCE_RULES[word].text


@pytest.mark.parametrize("word", GUIDANCE_RULES)
def test_a_rule_is_a_value(word):
    rule = pickle.loads(pickle.dumps(guidance_rule(word)))
    arguments = Z, Z + 1, 2 * Z, torch.zeros(2), 0.5, None
    assert torch.equal(rule.combine(*arguments).x0, guidance_rule(word).combine(*arguments).x0)


def test_only_momentum_is_remembered():
    assert guidance_rule("apg", momentum=-0.5).remembers
    assert not guidance_rule("apg", norm=1.0, momentum=0).remembers


@pytest.mark.parametrize(
    ("word", "options", "message"),
    [
        ("apgg", {}, "unknown guidance rule 'apgg', expected one of plain, zero_star, apg, or "),
        ("plain", {"norm": 1}, "expected no settings for guidance rule plain, got norm"),
        (
            "apg",
            {"eta": 1},
            "expected only parallel, norm, momentum for guidance rule apg, got eta",
        ),
        ("apg", {"norm": -1.0}, "expected norm at least 0, got -1.0"),
        ("apg", {"norm": "long"}, "expected norm to be a number, got 'long'"),
        ("apg", {"norm": True}, "expected norm to be a number, got True"),
        ("apg", {"parallel": float("nan")}, "expected parallel at least 0, got nan"),
        ("apg", {"momentum": 1}, r"expected momentum in -0.99..0.99, got 1"),
        ("math:tau", {}, "expected guidance rule math:tau to be a function, got 6.28"),
        ("no.such:rule", {}, "no.such:rule cannot be imported"),
        ("tests.ops.test_guidance_rules:halfway", {"part": 1}, "expected only share for guidance"),
    ],
)
def test_mistakes(word, options, message):
    with pytest.raises(ValueError, match=message):
        guidance_rule(word, **options)


def halfway(z, cond, other, logsnr, w, share=0.5):
    """A rule from outside."""
    return share * (cond + other) + 0 * w * z + 0 * logsnr.sum()


def counting(z, cond, other, logsnr, w, memory=None):
    """A rule from outside that counts steps."""
    del z, other, logsnr, w
    return ops.Remembered(cond * (memory or 0), (memory or 0) + 1)


def test_rules_from_outside():
    rule = guidance_rule("tests.ops.test_guidance_rules:halfway", share=0.25)
    got = rule.combine(Z, Z, 3 * Z, torch.zeros(2), 1.0, None)
    torch.testing.assert_close(got.x0, Z)
    assert not rule.remembers
    rule = guidance_rule("tests.ops.test_guidance_rules:counting")
    assert rule.remembers
    denoise = ops.guided(lambda z, _: z, [lambda z, _: z], [1.0], rule)
    seen = []
    grid = torch.linspace(-6, 6, 4)
    ops.sample(denoise, Z, grid, callback=lambda i, z, x0: seen.append((x0 / z).mean().item()))
    assert seen == pytest.approx([0, 1, 2])


def test_an_entry_names_its_function():
    entry = GuidanceRuleEntry(text="x", target="vfn.ops.guidance:plain_rule")
    assert entry.load() is ops.guidance_rule("plain").combine.keywords["function"]
