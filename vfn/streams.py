"""The streams of randomness: each purpose has its own, so that no two share a number."""

from enum import IntEnum


class Stream(IntEnum):
    """Numbers for `vfn.ops.keyed_normal` and its kin; runs depend on them, so never renumber."""

    ORDER = 0  # which picture comes when
    TIME = 1
    NOISE = 2
    LABEL_DROP = 3
    HELD_OUT_TIME = 4
    HELD_OUT_NOISE = 5
    FLIP = 6
    GUIDANCE = 7  # of a network that takes it as an input
    HELD_OUT_GUIDANCE = 8
    DROPOUT = 9  # keys of pictures
    SECOND_TIME = 10  # where a step ends, of networks that take it
    SAME_TIME = 11  # whether it ends where it begins
    HELD_OUT_SECOND_TIME = 12
    HELD_OUT_SAME_TIME = 13
    CONDITION = 14  # what is hidden of a picture that is a condition
    HELD_OUT_CONDITION = 15
    AUGMENT = 16
    STEP_LENGTH = 17  # of a sampler's step that is taken in training
    STEP_NOISE = 18
    HELD_OUT_STEP_LENGTH = 19
    BITS_TIME = 20  # noise levels of the continuous bound
    BITS_LEVEL = 21  # dequantization
    BITS_PROBE = 22  # the trace of the probability flow
    HELD_OUT_STEP_NOISE = 23
    BOOTSTRAP = 30  # resampled pictures of an evaluation
    PERFECT = 31  # what a perfect sampler would get
    BITS_NOISE = 100  # BITS_NOISE + k is draw k of a bound, below 900
    SAMPLE = 1000  # SAMPLE is the start noise, SAMPLE + 1 + i the noise of step i
