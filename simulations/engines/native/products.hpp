// Products of small matrices, as a step of a small model needs them: no packing, no threads, tiles kept in registers.
//
// Everything but a linear layer's forward pass is one product: `c[m][n] += a[m, k] * b[k][n]`, in which the steps of `a`
// are free. A convolution needs no copies of windows then: along a row of its kernel they lie side by side in memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace fedlag {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64, ROWS = 14, ROWS_OF_ONE = 16;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32, ROWS = 6, ROWS_OF_ONE = 12;
#elif defined(__aarch64__)
constexpr int VECTOR_BYTES = 16, ROWS = 12, ROWS_OF_ONE = 16;
#else
constexpr int VECTOR_BYTES = 16, ROWS = 6, ROWS_OF_ONE = 12;
#endif

template <class T> struct Vectors;
template <> struct Vectors<float> {
  typedef float V __attribute__((vector_size(VECTOR_BYTES)));
  typedef float Loose __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
  typedef int32_t Index __attribute__((vector_size(VECTOR_BYTES)));
  typedef int32_t LooseIndex __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
};
template <> struct Vectors<double> {
  typedef double V __attribute__((vector_size(VECTOR_BYTES)));
  typedef double Loose __attribute__((vector_size(VECTOR_BYTES), aligned(8), may_alias));
  typedef int64_t Index __attribute__((vector_size(VECTOR_BYTES)));
  typedef int64_t LooseIndex __attribute__((vector_size(VECTOR_BYTES), aligned(8), may_alias));
};
template <class T> using V = typename Vectors<T>::V;
template <class T> constexpr int WIDTH = VECTOR_BYTES / sizeof(T);

template <class T> inline V<T> load(const T* from) { return *reinterpret_cast<const typename Vectors<T>::Loose*>(from); }
template <class T> inline void store(T* to, V<T> values) { *reinterpret_cast<typename Vectors<T>::Loose*>(to) = values; }

// What a product reads and writes. `a[m, s, k]` lies at `a + m * a_row + s * a_segment + k * a_step`; `b` has a row for each
// `(s, k)` in that order. What is summed is added to `begin[m][n]` where there is one: at the end, so that many small values are not lost in a large one.
template <class T> struct Product {
  const T* a;
  ptrdiff_t a_row, a_segment, a_step;
  ptrdiff_t segments, steps;
  const T* b;
  ptrdiff_t b_row;
  const T* begin;
  ptrdiff_t begin_row;
  T* c;
  ptrdiff_t c_row;
};

#define UNROLLED _Pragma("GCC unroll 32") for  // so that the sums stay in registers

template <class T, int M, int N> void multiply_tile(const Product<T>& p) {
  const ptrdiff_t a_row = p.a_row, a_step = p.a_step, b_row = p.b_row, steps = p.steps;
  V<T> sum[M][N];
  UNROLLED(int m = 0; m < M; m++)
    UNROLLED(int n = 0; n < N; n++) sum[m][n] = V<T>{};
  const T* b = p.b;
  for (ptrdiff_t s = 0; s < p.segments; s++) {
    const T* a = p.a + s * p.a_segment;
    for (ptrdiff_t k = 0; k < steps; k++, a += a_step, b += b_row) {
      V<T> row[N];
      UNROLLED(int n = 0; n < N; n++) row[n] = load(b + n * WIDTH<T>);
      UNROLLED(int m = 0; m < M; m++) {
        const T value = a[m * a_row];
        UNROLLED(int n = 0; n < N; n++) sum[m][n] += value * row[n];
      }
    }
  }
  UNROLLED(int m = 0; m < M; m++)
    UNROLLED(int n = 0; n < N; n++) {
      if (p.begin) sum[m][n] += load(p.begin + m * p.begin_row + n * WIDTH<T>);
      store(p.c + m * p.c_row + n * WIDTH<T>, sum[m][n]);
    }
}

template <class T> void multiply_tail(const Product<T>& p, ptrdiff_t rows, ptrdiff_t columns) {
  for (ptrdiff_t m = 0; m < rows; m++)
    for (ptrdiff_t n = 0; n < columns; n++) {
      T sum = 0;
      const T* b = p.b + n;
      for (ptrdiff_t s = 0; s < p.segments; s++)
        for (ptrdiff_t k = 0; k < p.steps; k++, b += p.b_row) sum += p.a[m * p.a_row + s * p.a_segment + k * p.a_step] * *b;
      p.c[m * p.c_row + n] = p.begin ? p.begin[m * p.begin_row + n] + sum : sum;
    }
}

template <class T, int N, size_t... M> constexpr auto tiles_of(std::index_sequence<M...>) {
  return std::array<void (*)(const Product<T>&), sizeof...(M)>{multiply_tile<T, int(M) + 1, N>...};
}

template <class T, int N> void multiply_columns(Product<T> p, ptrdiff_t rows) {
  constexpr int most = N == 1 ? ROWS_OF_ONE : ROWS;
  static constexpr auto tiles = tiles_of<T, N>(std::make_index_sequence<most>());
  for (ptrdiff_t left = (rows + most - 1) / most; left > 0; left--) {  // tiles of nearly equal height
    const ptrdiff_t height = (rows + left - 1) / left;
    tiles[height - 1](p);
    p.a += height * p.a_row;
    p.c += height * p.c_row;
    if (p.begin) p.begin += height * p.begin_row;
    rows -= height;
  }
}

template <class T> void multiply(Product<T> p, ptrdiff_t rows, ptrdiff_t columns) {
  const auto move_on = [&p, &columns](ptrdiff_t count) {
    p.b += count;
    p.c += count;
    if (p.begin) p.begin += count;
    columns -= count;
  };
  while (columns >= 2 * WIDTH<T>) multiply_columns<T, 2>(p, rows), move_on(2 * WIDTH<T>);
  if (columns >= WIDTH<T>) multiply_columns<T, 1>(p, rows), move_on(WIDTH<T>);
  if (columns) multiply_tail(p, rows, columns);
}

// The sums of four vectors' lanes: each step joins two vectors, so that one addition sums lanes of both.
template <class T, int... L> inline V<T> add_neighbors(V<T> a, V<T> b, std::integer_sequence<int, L...>) {
  constexpr int W = WIDTH<T>;
  return __builtin_shufflevector(a, b, (L % 2 ? W + L - 1 : L)...) + __builtin_shufflevector(a, b, (L % 2 ? W + L : L + 1)...);
}
template <class T, int... L> inline V<T> add_pairs(V<T> a, V<T> b, std::integer_sequence<int, L...>) {
  constexpr int W = WIDTH<T>;
  return __builtin_shufflevector(a, b, (L % 4 < 2 ? L : W + L - 2)...) +
         __builtin_shufflevector(a, b, (L % 4 < 2 ? L + 2 : W + L)...);
}
template <class T> inline void add_lanes(const V<T> (&four)[4], T (&sums)[4]) {
  constexpr int W = WIDTH<T>;
  if constexpr (W >= 4) {
    constexpr auto lanes = std::make_integer_sequence<int, W>();
    const V<T> sum = add_pairs<T>(add_neighbors<T>(four[0], four[1], lanes), add_neighbors<T>(four[2], four[3], lanes), lanes);
    for (int i = 0; i < 4; i++) {
      sums[i] = sum[i];
      for (int lane = 4; lane < W; lane += 4) sums[i] += sum[i + lane];
    }
  } else {
    for (int i = 0; i < 4; i++) {
      sums[i] = 0;
      for (int lane = 0; lane < W; lane++) sums[i] += four[i][lane];
    }
  }
}

// `y[m][n] = bias[n] + sum over i of x[m][i] * w[n][i]`, for four `n`; where there are fewer, the last ones are not stored.
template <class T> struct Dots {
  const T* x;
  ptrdiff_t x_row;
  const T* w[4];
  ptrdiff_t length, outputs, count;
  const T* bias;
  T* y;
};

template <class T, int M> void dot_tile(const Dots<T>& d) {
  V<T> sum[M][4] = {};
  ptrdiff_t i = 0;
  for (; i + WIDTH<T> <= d.length; i += WIDTH<T>) {
    V<T> row[4];
    UNROLLED(int n = 0; n < 4; n++) row[n] = load(d.w[n] + i);
    UNROLLED(int m = 0; m < M; m++) {
      const V<T> values = load(d.x + m * d.x_row + i);
      UNROLLED(int n = 0; n < 4; n++) sum[m][n] += values * row[n];
    }
  }
  UNROLLED(int m = 0; m < M; m++) {
    T out[4];
    add_lanes<T>(sum[m], out);
    for (ptrdiff_t rest = i; rest < d.length; rest++)
      for (int n = 0; n < 4; n++) out[n] += d.x[m * d.x_row + rest] * d.w[n][rest];
    for (ptrdiff_t n = 0; n < d.count; n++) d.y[m * d.outputs + n] = out[n] + (d.bias ? d.bias[n] : T(0));
  }
}

template <class T, size_t... M> constexpr auto dots_of(std::index_sequence<M...>) {
  return std::array<void (*)(const Dots<T>&), sizeof...(M)>{dot_tile<T, int(M) + 1>...};
}

// A linear layer: `x` has `rows` rows of `length` values, `w` has `outputs`, `y` has `rows` of `outputs`.
template <class T>
void multiply_transposed(const T* x, ptrdiff_t rows, const T* w, ptrdiff_t outputs, ptrdiff_t length, const T* bias, T* y) {
  constexpr int most = ROWS > 6 ? 5 : 2;
  static constexpr auto tiles = dots_of<T>(std::make_index_sequence<most>());
  for (ptrdiff_t n = 0; n < outputs; n += 4) {
    Dots<T> d{x, length, {}, length, outputs, outputs - n < 4 ? outputs - n : 4, bias ? bias + n : nullptr, y + n};
    for (int i = 0; i < 4; i++) d.w[i] = w + (n + (i < d.count ? i : 0)) * length;
    for (ptrdiff_t left = (rows + most - 1) / most, rest = rows; left > 0; left--) {
      const ptrdiff_t height = (rest + left - 1) / left;
      tiles[height - 1](d);
      d.x += height * length, d.y += height * outputs, rest -= height;
    }
  }
}

}  // namespace fedlag
