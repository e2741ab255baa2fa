"""Every tap's distance in one launch: features in FP16 or FP32, one flat FP32 buffer of maps.

A program holds all channels of a few positions of one tap, so memory is read once and the second
pass over the difference of the unit vectors runs in registers. That pass is not a luxury. In FP32,
``1 - t·s / (‖t‖‖s‖)`` from three sums is off by 3e-7 whatever the distance (64 to 512 channels,
FP16 features, against float64); a good student's distance of 1e-3 then has a relative error of
3e-4, one of 1e-5 of 3e-2, and a product of three taps adds them up. Subtracting the unit vectors
leaves 1e-6 and 7e-6. Sums of ``(t - s)²`` and ``(t - s)(t + s)``, also one pass, are no better than
the first: a student's norm is free, and may be three times the teacher's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from kd_export.graph.distance import EPSILON
from kdx.bundle.pair_spec import Distance
from kernels.launch import Launch

Strides = tuple[int, int, int]

# 16 FP16 positions are one 32-byte sector of memory; more of them would leave fewer programs than a
# GPU has processors.
POSITIONS_PER_PROGRAM = 16
# Teacher's and student's features are then 64 registers a thread: 256 channels with four warps, 512
# with eight. Of more channels the rest is read again in the second pass, from the second-level
# cache.
MAX_CHANNELS_IN_REGISTERS = 512


@triton.jit
def _block(
    features,
    image,
    first_channel,
    positions,
    channels: tl.constexpr,
    count: tl.constexpr,
    image_stride: tl.constexpr,
    channel_stride: tl.constexpr,
    position_stride: tl.constexpr,
    block_c: tl.constexpr,
):
    """Load ``(block_c, positions)`` in FP32; zeros outside."""
    channel = first_channel + tl.arange(0, block_c)
    inside = (channel < channels)[:, None] & (positions < count)[None, :]
    # A batch of features may have more than 2³¹ elements, one image's never.
    start = features + image.to(tl.int64) * image_stride
    offsets = channel[:, None] * channel_stride + positions[None, :] * position_stride
    return tl.load(start + offsets, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _tap_distance(
    teacher,
    student,
    image,
    positions,
    channels: tl.constexpr,
    count: tl.constexpr,
    t_image: tl.constexpr,
    t_channel: tl.constexpr,
    t_position: tl.constexpr,
    s_image: tl.constexpr,
    s_channel: tl.constexpr,
    s_position: tl.constexpr,
    cosine: tl.constexpr,
    epsilon: tl.constexpr,
    block_c: tl.constexpr,
):
    """Return the distance at the positions of one tap."""
    t = _block(teacher, image, 0, positions, channels, count, t_image, t_channel, t_position, block_c)
    s = _block(student, image, 0, positions, channels, count, s_image, s_channel, s_position, block_c)
    t_squared = tl.sum(t * t, axis=0)
    s_squared = tl.sum(s * s, axis=0)
    dot = tl.sum(t * s, axis=0)
    for first in range(block_c, channels, block_c):
        t_next = _block(teacher, image, first, positions, channels, count, t_image, t_channel, t_position, block_c)
        s_next = _block(student, image, first, positions, channels, count, s_image, s_channel, s_position, block_c)
        t_squared += tl.sum(t_next * t_next, axis=0)
        s_squared += tl.sum(s_next * s_next, axis=0)
        dot += tl.sum(t_next * s_next, axis=0)
    t_scale = tl.rsqrt(t_squared + epsilon)
    s_scale = tl.rsqrt(s_squared + epsilon)
    if cosine:
        return 1.0 - dot * t_scale * s_scale
    difference = t * t_scale[None, :] - s * s_scale[None, :]
    total = tl.sum(difference * difference, axis=0)
    for first in range(block_c, channels, block_c):
        t_next = _block(teacher, image, first, positions, channels, count, t_image, t_channel, t_position, block_c)
        s_next = _block(student, image, first, positions, channels, count, s_image, s_channel, s_position, block_c)
        difference = t_next * t_scale[None, :] - s_next * s_scale[None, :]
        total += tl.sum(difference * difference, axis=0)
    return 0.5 * total


@triton.jit
def distance_kernel(
    teachers,
    students,
    distances,
    finished,
    channels: tl.constexpr,
    counts: tl.constexpr,
    teacher_strides: tl.constexpr,
    student_strides: tl.constexpr,
    cosines: tl.constexpr,
    first_programs: tl.constexpr,
    first_positions: tl.constexpr,
    epsilon: tl.constexpr,
    channel_blocks: tl.constexpr,
    block_p: tl.constexpr,
):
    """Programs of axis 0 are blocks of positions, one tap after another; axis 1 is the batch."""
    program = tl.program_id(0)
    image = tl.program_id(1)
    if program == 0:
        # What the map's kernel counts its programs with; it must not cost a launch of its own.
        tl.store(finished + image, 0)
    for tap in tl.static_range(len(counts)):
        if (program >= first_programs[tap]) & (program < first_programs[tap + 1]):
            positions = (program - first_programs[tap]) * block_p + tl.arange(0, block_p)
            distance = _tap_distance(
                teachers[tap],
                students[tap],
                image,
                positions,
                channels[tap],
                counts[tap],
                teacher_strides[3 * tap],
                teacher_strides[3 * tap + 1],
                teacher_strides[3 * tap + 2],
                student_strides[3 * tap],
                student_strides[3 * tap + 1],
                student_strides[3 * tap + 2],
                cosines[tap],
                epsilon,
                channel_blocks[tap],
            )
            start = distances + first_positions[tap] * tl.num_programs(1) + image * counts[tap]
            tl.store(start + positions, distance, mask=positions < counts[tap])


def distance_launch(
    features: Sequence[tuple[Tensor, Tensor]], kinds: Sequence[Distance], distances: Tensor, finished: Tensor
) -> Launch:
    """Return the launch that computes every tap's distances.

    Args:
        features: Teacher's and student's of each tap, ``(N, C, h, w)``, FP16, BF16 or FP32, NCHW or
            channels_last in memory, also as slices of the channels; others are copied.
        kinds: The distance at each tap.
        distances: FP32, takes each tap's ``(N, h, w)``, one tap after another.
        finished: int32 ``(N,)``, set to zero.
    """
    flat = [(_collapsible(t), _collapsible(s)) for t, s in features]
    counts = tuple(t.shape[2] * t.shape[3] for t, _ in flat)
    programs = [triton.cdiv(count, POSITIONS_PER_PROGRAM) for count in counts]
    first_programs = tuple(sum(programs[:index]) for index in range(len(programs) + 1))
    constants = {
        "channels": tuple(t.shape[1] for t, _ in flat),
        "counts": counts,
        "teacher_strides": tuple(stride for t, _ in flat for stride in _strides(t)),
        "student_strides": tuple(stride for _, s in flat for stride in _strides(s)),
        "cosines": tuple(kind is Distance.COSINE for kind in kinds),
        "first_programs": first_programs,
        "first_positions": first_positions(counts),
        "epsilon": EPSILON,
        "channel_blocks": tuple(min(triton.next_power_of_2(t.shape[1]), MAX_CHANNELS_IN_REGISTERS) for t, _ in flat),
        "block_p": POSITIONS_PER_PROGRAM,
    }
    arguments = (tuple(t for t, _ in flat), tuple(s for _, s in flat), distances, finished)
    warps = 4 if max(t.shape[1] for t, _ in flat) <= MAX_CHANNELS_IN_REGISTERS // 2 else 8
    return Launch(distance_kernel, (first_programs[-1], flat[0][0].shape[0]), arguments, constants, warps)


def first_positions(counts: Sequence[int]) -> tuple[int, ...]:
    """Return where each tap begins in one image's positions, given how many each has."""
    return tuple(sum(counts[:index]) for index in range(len(counts)))


def _collapsible(features: Tensor) -> Tensor:
    """Return features whose rows have one stride, as those of a convolution do."""
    height, width = features.shape[2:]
    if height == 1 or width == 1 or features.stride(2) == width * features.stride(3):
        return features
    return features.contiguous(memory_format=torch.contiguous_format)


def _strides(features: Tensor) -> Strides:
    """Return the distances in memory, in elements, between images, channels and positions."""
    image, channel, row, column = features.stride()
    return image, channel, column if features.shape[3] > 1 else row
