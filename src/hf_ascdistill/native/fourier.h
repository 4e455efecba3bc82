// Fourier transforms of LANES columns of complex numbers at once, on one thread.
#pragma once

#include "matrices.h"

#include <cmath>
#include <cstring>

constexpr int REALS = 2 * LANES;  // floats in a row of complex numbers: LANES real parts, LANES imaginary ones

struct Complex {
  Vector re, im;
};

inline Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
inline Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
inline Complex operator*(Complex a, Complex b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
inline Complex conjugate(Complex a) { return {a.re, -a.im}; }
inline Complex times_i(Complex a) { return {-a.im, a.re}; }
inline Complex turned(Complex a, const float* turn, int direction) {  // a (turn[0] + i direction turn[1])
  const float c = turn[0], s = direction > 0 ? turn[1] : -turn[1];
  return {a.re * c - a.im * s, a.re * s + a.im * c};
}
inline Complex read(const float* at) { return {load(at), load(at + LANES)}; }

inline int radix_of(int size) { return size == 8 ? 8 : size % 4 == 0 ? 4 : size % 2 == 0 ? 2 : 3; }

// Which frequency a transform of `size` rows leaves in a row.
inline int frequency_in(int row, int size) {
  if (size == 1) return 0;
  const int radix = radix_of(size), part = size / radix;
  return row / part + radix * frequency_in(row % part, part);
}

// The transform of RADIX rows, back where `direction` is 1.
template <int RADIX>
inline void butterfly(Complex (&x)[RADIX], int direction) {
  if constexpr (RADIX == 8) {
    const float c = std::sqrt(.5f);
    Complex even[4] = {x[0], x[2], x[4], x[6]}, odd[4] = {x[1], x[3], x[5], x[7]};
    butterfly(even, direction);
    butterfly(odd, direction);
    const float turns[] = {1, 0, c, c, 0, 1, -c, c};
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      const Complex rest = turned(odd[k], turns + 2 * k, direction);
      x[k] = even[k] + rest;
      x[k + 4] = even[k] - rest;
    }
  } else if constexpr (RADIX == 4) {
    const Complex a = x[0] + x[2], b = x[0] - x[2], c = x[1] + x[3], d = times_i(x[1] - x[3]);
    x[0] = a + c;
    x[1] = direction > 0 ? b + d : b - d;
    x[2] = a - c;
    x[3] = direction > 0 ? b - d : b + d;
  } else if constexpr (RADIX == 2) {
    const Complex a = x[0], b = x[1];
    x[0] = a + b;
    x[1] = a - b;
  } else {
    const float half_chord = std::sqrt(.75f) * direction;
    const Complex sum = x[1] + x[2], rest = times_i(x[1] - x[2]);
    const Complex centre = {x[0].re - .5f * sum.re, x[0].im - .5f * sum.im};
    const Complex side = {rest.re * half_chord, rest.im * half_chord};
    x[0] = x[0] + sum;
    x[1] = centre + side;
    x[2] = centre - side;
  }
}

// A step of the transform: RADIX parts become as many independent smaller transforms.
template <int RADIX>
inline void divide(Complex* x, int part, const float* turns) {
  for (int row = 0; row < part; row++) {
    Complex rows[RADIX];
#pragma GCC unroll 8
    for (int k = 0; k < RADIX; k++) rows[k] = x[row + k * part];
    butterfly(rows, -1);
    x[row] = rows[0];
#pragma GCC unroll 8
    for (int k = 1; k < RADIX; k++) x[row + k * part] = part == 1 ? rows[k] : turned(rows[k], turns + 2 * (k - 1), -1);
    turns += 2 * (RADIX - 1);
  }
}

template <int RADIX>
inline void unite(Complex* x, int part, const float* turns) {
  for (int row = 0; row < part; row++) {
    Complex rows[RADIX];
    rows[0] = x[row];
#pragma GCC unroll 8
    for (int k = 1; k < RADIX; k++) {
      const Complex number = x[row + k * part];
      rows[k] = part == 1 ? number : turned(number, turns + 2 * (k - 1), 1);
    }
    butterfly(rows, 1);
#pragma GCC unroll 8
    for (int k = 0; k < RADIX; k++) x[row + k * part] = rows[k];
    turns += 2 * (RADIX - 1);
  }
}

// Transforms along the columns, in place; the frequencies come out as frequency_in says.
inline void transform(Complex* x, int size, const float* turns) {
  if (size == 1) return;
  if (size == 8) return divide<8>(x, 1, turns);
  const int radix = radix_of(size), part = size / radix;
  (radix == 4 ? divide<4> : radix == 2 ? divide<2> : divide<3>)(x, part, turns);
  for (int k = 0; k < radix; k++) transform(x + k * part, part, turns + 2 * (radix - 1) * part);
}

// Undoes it, but for a factor of `size`.
inline void transform_back(Complex* x, int size, const float* turns) {
  if (size == 1) return;
  if (size == 8) return unite<8>(x, 1, turns);
  const int radix = radix_of(size), part = size / radix;
  for (int k = 0; k < radix; k++) transform_back(x + k * part, part, turns + 2 * (radix - 1) * part);
  (radix == 4 ? unite<4> : radix == 2 ? unite<2> : unite<3>)(x, part, turns);
}

// The turns of all steps of a transform: 2 size floats hold them.
inline void fill_turns(int size, float* turns) {
  for (; size > 1; size /= radix_of(size))
    for (int row = 0; row < size / radix_of(size); row++)
      for (int k = 1; k < radix_of(size); k++) {
        *turns++ = std::cos(2 * M_PI / size * row * k);
        *turns++ = std::sin(2 * M_PI / size * row * k);
      }
}
