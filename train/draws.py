"""Random numbers by place: each is a function of (seed, place) alone, so no process has to draw those before it.

`counter` gives a whole generator for one place. `first_words` gives the first 64 bits of very many of them at once,
bit for bit what numpy's generators would give one by one; `permuted` is a permutation that needs no table.
"""

from __future__ import annotations

import numpy as np

U64 = np.uint64
LOW = U64(0xFFFFFFFF)
# SeedSequence's constants (numpy/random/bit_generator.pyx; M. E. O'Neill, "Developing a seed_seq alternative", 2015).
INIT_A, MULT_A, INIT_B, MULT_B = 0x43B0D7E5, 0x931E8875, 0x8B51F9DD, 0x58F38DED
MIX_L, MIX_R = 0xCA01F9DD, 0x4973F715
# The multiplier of PCG64's 128-bit steps (numpy/random/src/pcg64/pcg64.h), high and low half.
PCG = (U64(2549297995355413924), U64(4865540595714422341))
ROUNDS = 8
"""Of the permutation's Feistel network; four make it pseudo-random (Luby and Rackoff, SIAM J. Comput. 17, 1988)."""
GOLDEN = U64(0x9E3779B97F4A7C15)


def counter(seed: int, *where: int) -> np.random.Generator:
    """A generator of its own for one place of a run: nothing depends on how many numbers were drawn before."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *where])))


def first_words(seed: int, stream: int, number: int, positions: np.ndarray) -> np.ndarray:
    """(n,) uint64: the first word of `counter(seed, stream, number, position)` for each of n positions.

    Every part must be under 2**32 (AssertionError): then the four are the four words of SeedSequence's pool.
    """
    assert all(0 <= part < 2**32 for part in (seed, stream, number, int(positions.max(initial=0))))
    pool = [np.full(len(positions), part, U64) for part in (seed, stream, number)] + [positions.astype(U64)]
    words = _spread(_mixed(pool))
    start = (words[0], words[1])
    # An increment is odd: the sequence's number, one bit up, and one.
    step = (words[2] << U64(1) | words[3] >> U64(63), words[3] << U64(1) | U64(1))
    state = _add(_times(_add(step, start)), step)
    high, low = _add(_times(state), step)
    return _rotated(high ^ low, high >> U64(58))


def _mixed(pool: list[np.ndarray]) -> list[np.ndarray]:
    """SeedSequence's pool of four 32-bit words: each word into each other one."""
    constant = INIT_A

    def hashed(value: np.ndarray) -> np.ndarray:
        nonlocal constant
        value = value ^ U64(constant)
        constant = constant * MULT_A & 0xFFFFFFFF
        value = value * U64(constant) & LOW
        return value ^ value >> U64(16)

    pool = [hashed(word) for word in pool]
    for source in range(4):
        for target in range(4):
            if source != target:
                mixed: np.ndarray = pool[target] * U64(MIX_L) - hashed(pool[source]) * U64(MIX_R)
                mixed = mixed & LOW
                pool[target] = mixed ^ mixed >> U64(16)
    return pool


def _spread(pool: list[np.ndarray]) -> list[np.ndarray]:
    """Four 64-bit words of a pool, as SeedSequence.generate_state gives them."""
    constant, halves = INIT_B, []
    for k in range(8):
        value = pool[k % 4] ^ U64(constant)
        constant = constant * MULT_B & 0xFFFFFFFF
        value = value * U64(constant) & LOW
        halves.append(value ^ value >> U64(16))
    return [halves[k] | halves[k + 1] << U64(32) for k in range(0, 8, 2)]


Wide = tuple[np.ndarray, np.ndarray]
"""128-bit numbers: high and low halves."""


def _add(one: Wide, two: Wide) -> Wide:
    low = one[1] + two[1]
    return one[0] + two[0] + (low < one[1]).astype(U64), low


def _times(number: Wide) -> Wide:
    """Times PCG64's multiplier, modulo 2**128."""
    high, low = number
    return high * PCG[1] + low * PCG[0] + _high_product(low, PCG[1]), low * PCG[1]


def _high_product(one: np.ndarray, two: np.uint64) -> np.ndarray:
    """The upper 64 bits of 64 x 64 bits, from four products of halves."""
    a, b, c, d = one >> U64(32), one & LOW, two >> U64(32), two & LOW
    middle = (b * d >> U64(32)) + (a * d & LOW) + (b * c & LOW)
    return a * c + (a * d >> U64(32)) + (b * c >> U64(32)) + (middle >> U64(32))


def _rotated(value: np.ndarray, by: np.ndarray) -> np.ndarray:
    return value >> by | value << (U64(64) - by & U64(63))


def below(words: np.ndarray, bounds: np.ndarray | np.uint64) -> tuple[np.ndarray, np.ndarray]:
    """Draws in [0, bound) of 32-bit words, int64, by Lemire's product, and where numpy would have drawn again (arXiv
    1805.10941: a bound that does not divide 2**32 makes some products unfair)."""
    product = words * bounds
    return (product >> U64(32)).astype(np.int64), (product & LOW) < U64(2**32) % bounds


def permuted(places: np.ndarray, count: int, seed: int, *where: int) -> np.ndarray:
    """Where a pseudo-random permutation of `count` things takes each place, (n,) int64, without a table of them.

    A Feistel network over the next power of two; what falls outside goes round again until it falls inside (cycle
    walking: Black and Rogaway, CT-RSA 2002), which takes fewer than two rounds on average.
    """
    keys = np.random.SeedSequence([seed, *where]).generate_state(ROUNDS, U64)
    bits = max(2, (count - 1).bit_length())
    values, outside = places.astype(U64), np.arange(len(places))
    while len(outside):
        values[outside] = _network(values[outside], bits, keys)
        outside = outside[values[outside] >= U64(count)]
    return values.astype(np.int64)


def _network(values: np.ndarray, bits: int, keys: np.ndarray) -> np.ndarray:
    """One pass: each round keys one half by the other; with an odd number of bits the halves differ by one bit."""
    sizes = [U64(bits // 2), U64(bits - bits // 2)]
    left, right = values >> sizes[1], values & (U64(1) << sizes[1]) - U64(1)
    for key in keys:
        # `left` has sizes[0] bits and takes a hash of `right`; then the two change places, and so do their sizes.
        left = left ^ _hash(right + key) & (U64(1) << sizes[0]) - U64(1)
        left, right = right, left
        sizes.reverse()
    return left << sizes[1] | right


def _hash(value: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014): every bit of the input moves every bit of it."""
    value = value * GOLDEN
    value = (value ^ value >> U64(30)) * U64(0xBF58476D1CE4E5B9)
    value = (value ^ value >> U64(27)) * U64(0x94D049BB133111EB)
    return value ^ value >> U64(31)
