// Products of small row-major float32 matrices on one thread, in the widest vectors of the machine.
#pragma once

#include <algorithm>
#include <cstddef>
#include <new>
#include <vector>

// TILE_ROWS x TILE_VECTORS sums, a row of vectors and one number more fill the 32 or 16 vector registers.
#if defined(__AVX512F__)
constexpr int LANES = 16, TILE_ROWS = 8, TILE_VECTORS = 3;
#elif defined(__AVX__)
constexpr int LANES = 8, TILE_ROWS = 6, TILE_VECTORS = 2;
#else
constexpr int LANES = 4, TILE_ROWS = 8, TILE_VECTORS = 3;
#endif
constexpr int TILE_DEPTH = 256;  // rows of b whose vectors stay in the cache while rows of a pass
constexpr int PADDING = 16;      // padded matrices have a multiple of this many columns, on every machine

typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

inline Vector load(const float* at) { return *reinterpret_cast<const Vector*>(at); }
inline void store(float* at, Vector vector) { *reinterpret_cast<Vector*>(at) = vector; }
inline int padded(int columns) { return (columns + PADDING - 1) / PADDING * PADDING; }

// Makes rows of LANES lanes columns.
inline void transpose(Vector (&rows)[LANES]) {
  typedef int Order __attribute__((vector_size(4 * LANES)));
  Order low, high;
  for (int i = 0; i < LANES; i++) {
    low[i] = i / 2 + i % 2 * LANES;
    high[i] = low[i] + LANES / 2;
  }
  for (int round = 1; round < LANES; round *= 2) {
    Vector shuffled[LANES];
#pragma GCC unroll 8
    for (int i = 0; i < LANES / 2; i++) {
      shuffled[2 * i] = __builtin_shuffle(rows[i], rows[i + LANES / 2], low);
      shuffled[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + LANES / 2], high);
    }
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) rows[i] = shuffled[i];
  }
}

// Memory that begins where a cache line does: a vector that straddles two lines takes twice as long.
template <class T>
struct CacheAligned {
  typedef T value_type;
  T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t(64))); }
  void deallocate(T* at, size_t) { ::operator delete(at, std::align_val_t(64)); }
  bool operator==(const CacheAligned&) const { return true; }
  bool operator!=(const CacheAligned&) const { return false; }
};
typedef std::vector<float, CacheAligned<float>> Buffer;

// Which of some rows are the work of a member of a team.
struct Band {
  int member, members;
  int begin(int rows) const { return member * rows / members; }
  int end(int rows) const { return (member + 1) * rows / members; }
};

// A matrix by the steps from row to row and from column to column, so that a transposed one needs no copy.
struct Strided {
  const float* at;
  ptrdiff_t row, column;
};

// What becomes of the finished sums of a tile, whose first is in some row and column of the product.
struct Stored {
  float* c;
  int c_row;
  template <int ROWS, int VECTORS>
  void operator()(const Vector (&sums)[ROWS][VECTORS], int row, int column) const {
#pragma GCC unroll 8
    for (int m = 0; m < ROWS; m++)
#pragma GCC unroll 3
      for (int n = 0; n < VECTORS; n++) store(c + (ptrdiff_t)(row + m) * c_row + column + n * LANES, sums[m][n]);
  }
};

inline Vector relu(Vector x) { return x < Vector{} ? Vector{} : x; }  // NaN stays

struct StoredWithBiasAndRelu {
  float* c;
  int c_row;
  const float* bias;
  template <int ROWS, int VECTORS>
  void operator()(const Vector (&sums)[ROWS][VECTORS], int row, int column) const {
#pragma GCC unroll 3
    for (int n = 0; n < VECTORS; n++) {
      const Vector offset = load(bias + column + n * LANES);
#pragma GCC unroll 8
      for (int m = 0; m < ROWS; m++)
        store(c + (ptrdiff_t)(row + m) * c_row + column + n * LANES, relu(sums[m][n] + offset));
    }
  }
};

// The sums begin with what `initial` holds, or with zeros where it is null.
template <int ROWS, int VECTORS, class Finish>
inline void multiply_tile(Strided a, const float* b, int b_row, int depth, const float* initial, int row, int column,
                          Finish finish) {
  Vector sums[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int m = 0; m < ROWS; m++)
#pragma GCC unroll 3
    for (int n = 0; n < VECTORS; n++)
      sums[m][n] = initial ? load(initial + (ptrdiff_t)m * b_row + n * LANES) : Vector{};
  for (int k = 0; k < depth; k++) {
    Vector right[VECTORS];
#pragma GCC unroll 3
    for (int n = 0; n < VECTORS; n++) right[n] = load(b + (ptrdiff_t)k * b_row + n * LANES);
#pragma GCC unroll 8
    for (int m = 0; m < ROWS; m++) {
      const float left = a.at[m * a.row + k * a.column];
#pragma GCC unroll 3
      for (int n = 0; n < VECTORS; n++) sums[m][n] += left * right[n];
    }
  }
  finish(sums, row, column);
}

template <int VECTORS, class Finish>
inline void multiply_panel(int rows, Strided a, const float* b, int b_row, int depth, const float* initial, int column,
                           Finish finish) {
  const int tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
  for (int tile = 0, m = 0; tile < tiles; tile++) {
    const int height = (rows - m + tiles - tile - 1) / (tiles - tile);  // of like heights: 17 rows are 6, 6 and 5
    const Strided part{a.at + m * a.row, a.row, a.column};
    const float* from = initial ? initial + (ptrdiff_t)m * b_row : nullptr;
    switch (height) {
      case 1: multiply_tile<1, VECTORS>(part, b, b_row, depth, from, m, column, finish); break;
      case 2: multiply_tile<2, VECTORS>(part, b, b_row, depth, from, m, column, finish); break;
      case 3: multiply_tile<3, VECTORS>(part, b, b_row, depth, from, m, column, finish); break;
      case 4: multiply_tile<4, VECTORS>(part, b, b_row, depth, from, m, column, finish); break;
      case 5: multiply_tile<5, VECTORS>(part, b, b_row, depth, from, m, column, finish); break;
      case 6: multiply_tile<6, VECTORS>(part, b, b_row, depth, from, m, column, finish); break;
      case 7: multiply_tile<7, VECTORS>(part, b, b_row, depth, from, m, column, finish); break;
      default: multiply_tile<8, VECTORS>(part, b, b_row, depth, from, m, column, finish);
    }
    m += height;
  }
}

// Hands the tiles of a (rows, depth) b (depth, columns), plus what `initial` holds unless it is null, to `finish`.
// `columns`, a multiple of PADDING, is also the step from row to row of b and `initial`.
template <class Finish>
inline void multiply(int rows, int columns, int depth, Strided a, const float* b, const float* initial, Finish finish) {
  for (int n = 0; n < columns;) {
    const int left = (columns - n) / LANES;
    const int width = left == 4 ? 2 : std::min(left, TILE_VECTORS);
    const float* from = initial ? initial + n : nullptr;
    if (width == 3) multiply_panel<3>(rows, a, b + n, columns, depth, from, n, finish);
    else if (width == 2) multiply_panel<2>(rows, a, b + n, columns, depth, from, n, finish);
    else multiply_panel<1>(rows, a, b + n, columns, depth, from, n, finish);
    n += width * LANES;
  }
}

// c (rows, columns) = a b, or c += a b.
inline void multiply(int rows, int columns, int depth, Strided a, const float* b, float* c, bool add) {
  for (int k = 0; k < depth; k += TILE_DEPTH) {
    const Strided part{a.at + k * a.column, a.row, a.column};
    const float *right = b + (ptrdiff_t)k * columns, *initial = add || k > 0 ? c : nullptr;
    multiply(rows, columns, std::min(TILE_DEPTH, depth - k), part, right, initial, Stored{c, columns});
  }
}

// Leaves out the columns of padding.
inline void copy_columns(const float* wide, int wide_columns, int rows, int columns, float* out) {
  for (int row = 0; row < rows; row++, wide += wide_columns, out += columns) std::copy_n(wide, columns, out);
}

// The same where `out` has the true number of columns; `wide` is room for the product with padded ones.
inline void multiply_to_dense(int rows, int columns, int depth, Strided a, const float* b, float* out, Buffer& wide) {
  if (columns == padded(columns)) return multiply(rows, columns, depth, a, b, out, false);
  wide.resize((size_t)rows * padded(columns));
  multiply(rows, padded(columns), depth, a, b, wide.data(), false);
  copy_columns(wide.data(), padded(columns), rows, columns, out);
}
