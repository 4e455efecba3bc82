// Linear layers in float32 by the tiles of Intel's processors (AMX), which multiply bfloat16: what tiles.py calls.
//
// A bfloat16 has 8 bits of a float32's 24, so that a number is the sum of three: a high, a middle and a low part. Of the
// nine products of the parts of two numbers the smallest three lie below a float32's last bit; the other six, summed in
// float32, are as exact as products in float32 (Henry, Tang and Heinecke, 2019, "Leveraging the bfloat16 artificial
// intelligence datatype for higher-precision computations"), and tiles make sixteen products in the time of one.
#include "matrices.h"

struct LinearSizes {
  int rows, inputs, outputs;  // inputs and outputs: multiples of SIDE
  int has_gelu;
};

#if defined(__AVX512F__) && defined(__x86_64__) && defined(__linux__) && __GNUC__ >= 11
#include <cstdint>

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#pragma GCC target("amx-tile,amx-bf16,avx512bf16")

constexpr int TILE_SIDE = 16, SIDE = 2 * TILE_SIDE;  // four tiles of sums are a block of SIDE x SIDE
constexpr int TILE = TILE_SIDE * SIDE;               // bfloat16 numbers
constexpr int PARTS = 3, STEP = PARTS * 2 * TILE;    // what SIDE rows, or SIDE outputs, have at SIDE inputs
constexpr int DEPTH = 24;                            // steps whose products are summed before sums go to memory
constexpr int GROUP = 4;                             // blocks of rows whose parts stay in the second cache
constexpr int SHARES = 4;                            // of the work for each thread: one may be slower
constexpr int LINE = 32;                             // numbers

typedef uint16_t Bfloat16;
typedef std::vector<Bfloat16, CacheAligned<Bfloat16>> Parts;

// Two vectors as the parts of their numbers, those of the first vector before those of the second.
static void split(Vector first, Vector second, __m512i (&parts)[PARTS]) {
  for (__m512i& part : parts) {
    const __m512bh rounded = _mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    part = (__m512i)rounded;
    const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(part));
    const __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(part, 1));
    first -= (Vector)_mm512_slli_epi32(low, 16);
    second -= (Vector)_mm512_slli_epi32(high, 16);
  }
}

// A tile of each part of the weight: pairs of inputs below each other, outputs side by side.
static void pack_tile(const float* weight, int inputs, Bfloat16* to) {
  Vector pairs[PARTS][LANES];
  for (int output = 0; output < LANES; output++) {
    __m512i parts[PARTS];
    const float* row = weight + (ptrdiff_t)output * inputs;
    split(load(row), load(row + LANES), parts);
    for (int part = 0; part < PARTS; part++) pairs[part][output] = (Vector)parts[part];
  }
  for (int part = 0; part < PARTS; part++) {
    transpose(pairs[part]);
    for (int i = 0; i < LANES; i++) store((float*)(to + part * 2 * TILE + i * SIDE), pairs[part][i]);
  }
}

// The weight (outputs, inputs) as [outputs / SIDE][inputs / SIDE][PARTS][2] tiles.
extern "C" void pack_weight(const LinearSizes* sizes, int threads, const float* weight, Bfloat16* packed) {
  const LinearSizes s = *sizes;
  const int panels = s.outputs / SIDE, steps = s.inputs / SIDE;
#pragma omp parallel for collapse(2) num_threads(threads)
  for (int panel = 0; panel < panels; panel++)
    for (int step = 0; step < steps; step++)
      for (int tile = 0; tile < 2; tile++) {
        const float* from = weight + (ptrdiff_t)(panel * SIDE + tile * TILE_SIDE) * s.inputs + step * SIDE;
        pack_tile(from, s.inputs, packed + ((size_t)panel * steps + step) * STEP + tile * TILE);
      }
}

// A block of rows as [steps][PARTS][2] tiles, with zeros in place of rows that are missing.
static void pack_rows(const float* x, int row_step, int rows, int steps, Bfloat16* to) {
  for (int row = 0; row < SIDE; row++)
    for (int step = 0; step < steps; step++) {
      __m512i parts[PARTS] = {};
      const float* from = x + (ptrdiff_t)row * row_step + step * SIDE;
      if (row < rows) split(load(from), load(from + LANES), parts);
      Bfloat16* at = to + (size_t)step * STEP + row / TILE_SIDE * TILE + row % TILE_SIDE * SIDE;
      for (int part = 0; part < PARTS; part++) store((float*)(at + part * 2 * TILE), (Vector)parts[part]);
    }
}

static void configure_tiles() {
  struct alignas(64) Configuration {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  } configuration;
  for (int tile = 0; tile < 8; tile++) configuration.row_bytes[tile] = 64, configuration.rows[tile] = TILE_SIDE;
  asm volatile("ldtilecfg %0" ::"m"(configuration));  // GCC's intrinsic says of the first bytes alone that they are read
}

// Asks for what the next step reads of rows and weight, a twelfth of it: the first cache holds little more than a step,
// and the second one takes its time.
static inline void fetch(const Bfloat16* rows, const Bfloat16* weight, int twelfth) {
#pragma GCC unroll 8
  for (int line = twelfth * 8; line < twelfth * 8 + 8; line++) {
    __builtin_prefetch(rows + STEP + line * LINE);
    __builtin_prefetch(weight + STEP + line * LINE);
  }
}

// Adds the products of a block of rows and a panel of the weight to sums (SIDE, SIDE). Tiles 0 to 3 are sums, 4 and 5
// one part of the rows, 6 and 7 one of the weight; as soon as a tile has been read it gets its next part.
static void add_products(const Bfloat16* rows, const Bfloat16* weight, int steps, float* sums) {
  constexpr int ROW = 4 * SIDE, HALF = TILE_SIDE * SIDE, PART = 2 * TILE;
  asm volatile("" ::: "memory");  // GCC's intrinsics do not say that loads of tiles read memory
  _tile_loadd(0, sums, ROW);
  _tile_loadd(1, sums + TILE_SIDE, ROW);
  _tile_loadd(2, sums + HALF, ROW);
  _tile_loadd(3, sums + HALF + TILE_SIDE, ROW);
  _tile_loadd(4, rows, 64);
  _tile_loadd(5, rows + TILE, 64);
  _tile_loadd(6, weight + 2 * PART, 64);
  _tile_loadd(7, weight + 2 * PART + TILE, 64);
#define MULTIPLY_THEN_LOAD_ROWS(FROM, COUNT) \
  _tile_dpbf16ps(0, 4, 6); fetch(rows, weight, 2 * COUNT); \
  _tile_dpbf16ps(1, 4, 7); _tile_loadd(4, FROM, 64); \
  _tile_dpbf16ps(2, 5, 6); fetch(rows, weight, 2 * COUNT + 1); \
  _tile_dpbf16ps(3, 5, 7); _tile_loadd(5, FROM + TILE, 64)
#define MULTIPLY_THEN_LOAD_WEIGHT(FROM, COUNT) \
  _tile_dpbf16ps(0, 4, 6); fetch(rows, weight, 2 * COUNT); \
  _tile_dpbf16ps(2, 5, 6); _tile_loadd(6, FROM, 64); \
  _tile_dpbf16ps(1, 4, 7); fetch(rows, weight, 2 * COUNT + 1); \
  _tile_dpbf16ps(3, 5, 7); _tile_loadd(7, FROM + TILE, 64)
  for (int step = 0; step < steps; step++, rows += STEP, weight += STEP) {
    const ptrdiff_t next = step + 1 < steps ? STEP : 0;  // the last step loads what nothing multiplies
    MULTIPLY_THEN_LOAD_WEIGHT(weight, 0);
    MULTIPLY_THEN_LOAD_ROWS(rows + 2 * PART, 1);
    MULTIPLY_THEN_LOAD_ROWS(rows + PART, 2);
    MULTIPLY_THEN_LOAD_WEIGHT(weight + PART, 3);
    MULTIPLY_THEN_LOAD_ROWS(rows, 4);
    MULTIPLY_THEN_LOAD_ROWS(rows + next, 5);
    _tile_loadd(6, weight + next + 2 * PART, 64);
    _tile_loadd(7, weight + next + 2 * PART + TILE, 64);
  }
#undef MULTIPLY_THEN_LOAD_ROWS
#undef MULTIPLY_THEN_LOAD_WEIGHT
  _tile_stored(0, sums, ROW);
  _tile_stored(1, sums + TILE_SIDE, ROW);
  _tile_stored(2, sums + HALF, ROW);
  _tile_stored(3, sums + HALF + TILE_SIDE, ROW);
}

template <int DEGREE>
static inline Vector polynomial(const float (&coefficients)[DEGREE + 1], Vector t) {
  Vector value = Vector{} + coefficients[DEGREE];
#pragma GCC unroll 8
  for (int i = DEGREE - 1; i >= 0; i--) value = value * t + coefficients[i];
  return value;
}

// x (1 + erf(x / sqrt(2))) / 2. The quotient was fitted to erf(z) / z up to where a float32 of erf is 1.
static inline Vector gelu(Vector x) {
  constexpr float above[] = {1.1283791f, 0.19354388f, 0.05310151f, 0.0038832685f, 0.00028456034f, 1.9867446e-06f};
  constexpr float below[] = {1.f, 0.50485635f, 0.11534944f, 0.015207106f, 0.0011855453f, 3.7419486e-05f};
  const Vector limit = Vector{} + 4.f, scaled = x * 0.70710678f;
  const Vector z = scaled < -limit ? -limit : scaled > limit ? limit : scaled;  // NaN stays
  const Vector erf = z * (polynomial<5>(above, z * z) / polynomial<5>(below, z * z));
  return x * (erf * .5f + .5f);
}

struct Range {
  int begin, end;
};

// The sums of some blocks of rows, whose parts lie in `packed`, at some panels of the weight.
static void multiply_blocks(const LinearSizes& s, Range blocks, Range panels, const float* x, const Bfloat16* weight,
                            const float* bias, float* out, Parts& packed) {
  const int steps = s.inputs / SIDE;
  alignas(64) float sums[SIDE * SIDE] = {};
  const auto rows_of = [&](int block) { return std::min(SIDE, s.rows - block * SIDE); };
  const auto parts_of = [&](int block) { return packed.data() + (size_t)(block - blocks.begin) * DEPTH * STEP; };
  for (int first = 0; first < steps; first += DEPTH) {
    const int depth = std::min(DEPTH, steps - first);
    for (int block = blocks.begin; block < blocks.end; block++) {
      const float* from = x + (ptrdiff_t)block * SIDE * s.inputs + first * SIDE;
      pack_rows(from, s.inputs, rows_of(block), depth, parts_of(block));
    }
    for (int panel = panels.begin; panel < panels.end; panel++)
      for (int block = blocks.begin; block < blocks.end; block++) {
        float* to = out + (ptrdiff_t)block * SIDE * s.outputs + panel * SIDE;
        for (int row = 0; row < rows_of(block); row++)
          for (int i = 0; i < SIDE; i += LANES) {
            const float* from = first ? to + (ptrdiff_t)row * s.outputs : bias ? bias + panel * SIDE : nullptr;
            store(sums + row * SIDE + i, from ? load(from + i) : Vector{});
          }
        add_products(parts_of(block), weight + ((size_t)panel * steps + first) * STEP, depth, sums);
        const bool has_gelu = s.has_gelu && first + depth == steps;
        for (int row = 0; row < rows_of(block); row++)
          for (int i = 0; i < SIDE; i += LANES) {
            const Vector sum = load(sums + row * SIDE + i);
            store(to + (ptrdiff_t)row * s.outputs + i, has_gelu ? gelu(sum) : sum);
          }
      }
  }
}

// out (rows, outputs) = x (rows, inputs) weight^T + bias, of a packed weight; where asked for, the GELU of it.
extern "C" void tile_linear(const LinearSizes* sizes, int threads, const float* x, const Bfloat16* weight,
                            const float* bias, float* out) {
  const LinearSizes s = *sizes;
  const int blocks = (s.rows + SIDE - 1) / SIDE, panels = s.outputs / SIDE, groups = (blocks + GROUP - 1) / GROUP;
  const int columns = std::min(panels, (SHARES * threads + groups - 1) / groups);
#pragma omp parallel num_threads(threads)
  {
    configure_tiles();
    Parts packed((size_t)GROUP * DEPTH * STEP);
#pragma omp for schedule(dynamic)
    for (int work = 0; work < groups * columns; work++) {
      const Band group{work / columns, groups}, column{work % columns, columns};
      const Range of_blocks{group.begin(blocks), group.end(blocks)};
      multiply_blocks(s, of_blocks, {column.begin(panels), column.end(panels)}, x, weight, bias, out, packed);
    }
    _tile_release();
  }
}

// Asks Linux for the tiles, which each process must before it uses them.
extern "C" int ask_for_tiles() {
  constexpr int REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  unsigned a, b, c, d;
  const bool has_bfloat16 = __get_cpuid_count(7, 1, &a, &b, &c, &d) && a & 1 << 5;
  const bool has_tiles = __get_cpuid_count(7, 0, &a, &b, &c, &d) && d & 1 << 22 && d & 1 << 24;
  return has_bfloat16 && has_tiles && syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}
#else  // never called
extern "C" int ask_for_tiles() { return 0; }
extern "C" void pack_weight(const LinearSizes*, int, const float*, void*) {}
extern "C" void tile_linear(const LinearSizes*, int, const float*, const void*, const float*, float*) {}
#endif
