// What each link of a chain computes for one image, forward and backward. Images lie with channels last.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <new>
#include <numeric>
#include <type_traits>

#include "products.hpp"

namespace fedlag {

enum Kind : int64_t { CONVOLUTION, GROUP_NORM, MAX_POOL, RELU, TANH, FLATTEN, LINEAR };

// One link of the chain, as engine.py writes it; numbers of parameters are -1 where there is none.
struct Link {
  int64_t kind, weight, bias, channels, height, width, outputs, out_height, out_width;
  int64_t kernel_height, kernel_width, row_stride, column_stride, row_padding, column_padding, groups;
  double epsilon;  // of a norm
};

// A link, and how its images lie in memory: the channels behind a convolution are padded to whole vectors.
struct Layout : Link {
  int64_t in_channels, out_channels, in_size, out_size, padded_height, padded_width, padded_size, matrix_size;
};

template <class T> struct Array {  // uninitialized and aligned, which std::vector is not
  explicit Array(size_t size = 0) : size(size), data(size ? new (std::align_val_t(64)) T[size] : nullptr) {}
  size_t size;
  struct Free { void operator()(T* it) const { ::operator delete[](it, std::align_val_t(64)); } };
  std::unique_ptr<T[], Free> data;
  operator T*() const { return data.get(); }
};

inline int64_t padded(int64_t count, int64_t width) { return (count + width - 1) / width * width; }

// Which value of a window was the largest.
template <class T> using Chosen = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

// `x` is padded; the weight is (kernel height, kernel width, inputs, outputs).
template <class T> void convolve(const Layout& it, const T* x, const T* weight, const T* bias, T* y) {
  const int64_t row = it.padded_width * it.in_channels, run = it.kernel_width * it.in_channels;
  const bool is_small = run * it.kernel_height * 2 * VECTOR_BYTES <= 24 * 1024;  // a panel of the weight fits the first cache
  const int64_t segments = is_small ? it.kernel_height : 1;
  for (int64_t n = 0; n < it.out_channels; n += 2 * WIDTH<T>)
    for (int64_t kh = 0; kh < it.kernel_height; kh += segments)
      for (int64_t h = 0; h < it.out_height; h++) {
        T* to = y + h * it.out_width * it.out_channels + n;
        const T* begin = kh ? to : bias ? bias + n : nullptr;
        multiply<T>({x + (h * it.row_stride + kh) * row, it.column_stride * it.in_channels, row, 1, segments, run,
                     weight + kh * run * it.out_channels + n, it.out_channels, begin, kh ? it.out_channels : 0, to, it.out_channels},
                    it.out_width, std::min<int64_t>(2 * WIDTH<T>, it.out_channels - n));
      }
}

// Adds the gradient of the weight.
template <class T> void add_kernel(const Layout& it, const T* x, const T* g, T* into) {
  const int64_t row = it.padded_width * it.in_channels, run = it.kernel_width * it.in_channels;
  for (int64_t kh = 0; kh < it.kernel_height; kh++) {
    T* to = into + kh * run * it.out_channels;
    multiply<T>({x + kh * row, 1, it.row_stride * row, it.column_stride * it.in_channels, it.out_height, it.out_width, g,
                 it.out_channels, to, it.out_channels, to, it.out_channels},
                run, it.out_channels);
  }
}

// Gives the gradient of the padded input: every output's is added to the window that it came from. The weight is turned:
// (kernel height, kernel width, outputs, inputs).
template <class T> void spread_windows(const Layout& it, const T* g, const T* turned, T* before) {
  std::fill_n(before, it.padded_size, T(0));
  const int64_t row = it.padded_width * it.in_channels, step = it.column_stride * it.in_channels;
  for (int64_t k = 0; k < it.kernel_height * it.kernel_width; k++) {
    const int64_t kh = k / it.kernel_width, kw = k % it.kernel_width;
    for (int64_t h = 0; h < it.out_height; h++) {
      T* window = before + (h * it.row_stride + kh) * row + kw * it.in_channels;
      multiply<T>({g + h * it.out_width * it.out_channels, it.out_channels, 0, 1, 1, it.out_channels,
                   turned + k * it.in_channels * it.out_channels, it.in_channels, window, step, window, step},
                  it.out_width, it.in_channels);
    }
  }
}

template <class T> void turn(const Layout& it, const T* weight, T* turned) {
  const int64_t size = it.in_channels * it.out_channels;
  for (int64_t k = 0; k < it.kernel_height * it.kernel_width; k++, weight += size, turned += size)
    for (int64_t c = 0; c < it.in_channels; c++)
      for (int64_t o = 0; o < it.out_channels; o++) turned[o * it.in_channels + c] = weight[c * it.out_channels + o];
}

// Copies an image into the middle of a padded one, or back.
template <class T> void put_inside(const Layout& it, const T* image, T* padded_image) {
  for (int64_t h = 0; h < it.height; h++)
    std::copy_n(image + h * it.width * it.in_channels, it.width * it.in_channels,
                padded_image + ((h + it.row_padding) * it.padded_width + it.column_padding) * it.in_channels);
}
template <class T> void take_inside(const Layout& it, const T* padded_image, T* image) {
  for (int64_t h = 0; h < it.height; h++)
    std::copy_n(padded_image + ((h + it.row_padding) * it.padded_width + it.column_padding) * it.in_channels,
                it.width * it.in_channels, image + h * it.width * it.in_channels);
}

// The channels of a pool are whole vectors, or those of the input, which may be fewer.
template <class T> void pool(const Layout& it, const T* x, T* y, Chosen<T>* chosen) {
  using Mask = typename Vectors<T>::Index;
  using Int = Chosen<T>;
  const int64_t channels = it.in_channels;
  for (int64_t h = 0; h < it.out_height; h++)
    for (int64_t w = 0; w < it.out_width; w++, y += channels, chosen += channels) {
      const T* window = x + (h * it.row_stride * it.width + w * it.column_stride) * channels;
      int64_t c = 0;
      for (; c + WIDTH<T> <= channels; c += WIDTH<T>) {
        V<T> best = load(window + c);
        Mask where{};
        for (int64_t k = 1; k < it.kernel_height * it.kernel_width; k++) {
          const V<T> value = load(window + (k / it.kernel_width * it.width + k % it.kernel_width) * channels + c);
          const auto is_larger = value > best;
          where = is_larger ? Mask{} + static_cast<Int>(k) : where;
          best = is_larger ? value : best;
        }
        store(y + c, best);
        *reinterpret_cast<typename Vectors<T>::LooseIndex*>(chosen + c) = where;
      }
      for (; c < channels; c++) {
        y[c] = window[c], chosen[c] = 0;
        for (int64_t k = 1; k < it.kernel_height * it.kernel_width; k++) {
          const T value = window[(k / it.kernel_width * it.width + k % it.kernel_width) * channels + c];
          if (value > y[c]) y[c] = value, chosen[c] = static_cast<Int>(k);
        }
      }
    }
}

template <class T> void spread_pool(const Layout& it, const T* g, const Chosen<T>* chosen, T* before) {
  const int64_t channels = it.in_channels, row = it.width * channels;
  const bool is_apart = it.row_stride >= it.kernel_height && it.column_stride >= it.kernel_width;
  const bool is_covered = it.out_height * it.kernel_height == it.height && it.out_width * it.kernel_width == it.width;
  if (!is_apart || !is_covered) std::fill_n(before, it.in_size, T(0));
  for (int64_t h = 0; h < it.out_height; h++)
    for (int64_t w = 0; w < it.out_width; w++, g += channels, chosen += channels) {
      T* window = before + h * it.row_stride * row + w * it.column_stride * channels;
      for (int64_t kh = 0; kh < it.kernel_height; kh++)
        for (int64_t kw = 0; kw < it.kernel_width; kw++) {
          T* to = window + kh * row + kw * channels;
          const auto place = static_cast<Chosen<T>>(kh * it.kernel_width + kw);
          if (is_apart)
            for (int64_t c = 0; c < channels; c++) to[c] = chosen[c] == place ? g[c] : T(0);
          else
            for (int64_t c = 0; c < channels; c++) to[c] += chosen[c] == place ? g[c] : T(0);
        }
    }
}

template <class T> void add(const T* from, T* to, int64_t size) {
  for (int64_t i = 0; i < size; i++) to[i] += from[i];
}

// Replaces every channel's sum by the mean over its group.
template <class T> void share_in_groups(const Layout& it, T* sums) {
  const int64_t count = it.channels / it.groups;
  for (int64_t group = 0; group < it.groups; group++) {
    T* of_group = sums + group * count;
    const T total = std::accumulate(of_group, of_group + count, T(0)) / static_cast<T>(count * it.height * it.width);
    std::fill_n(of_group, count, total);
  }
}

// Each group of channels gets a mean of 0 and a variance of 1, then each channel is scaled and shifted. `kept` has room for
// each channel's mean, factor, scale and shift; channels that only fill up stay 0.
template <class T> void normalize(const Layout& it, const T* x, const T* weight, const T* bias, T* y, T* kept) {
  const int64_t channels = it.in_channels, size = it.in_size;
  T *mean = kept, *factor = kept + channels, *scale = kept + 2 * channels, *shift = kept + 3 * channels;
  std::fill_n(kept, 4 * channels, T(0));
  for (int64_t i = 0; i < size; i += channels) add(x + i, mean, channels);
  share_in_groups(it, mean);
  for (int64_t i = 0; i < size; i += channels)
    for (int64_t c = 0; c < channels; c++) factor[c] += (x[i + c] - mean[c]) * (x[i + c] - mean[c]);
  share_in_groups(it, factor);
  for (int64_t c = 0; c < it.channels; c++) {
    factor[c] = 1 / std::sqrt(factor[c] + static_cast<T>(it.epsilon));
    scale[c] = factor[c] * weight[c];
    shift[c] = bias[c] - mean[c] * scale[c];
  }
  for (int64_t i = 0; i < size; i += channels)
    for (int64_t c = 0; c < channels; c++) y[i + c] = x[i + c] * scale[c] + shift[c];
}

// Gives the gradient of a norm's input, and adds those of weight and bias; any of the three may be null. `room` is for four
// values a channel.
template <class T>
void spread_norm(const Layout& it, const T* x, const T* g, const T* weight, const T* kept, T* before, T* to_weight, T* to_bias, T* room) {
  const int64_t channels = it.in_channels, size = it.in_size;
  const T *mean = kept, *factor = kept + channels;
  T *sum = room, *product = room + channels, *of_sum = room + 2 * channels, *of_product = room + 3 * channels;
  std::fill_n(room, 4 * channels, T(0));
  for (int64_t i = 0; i < size; i += channels)
    for (int64_t c = 0; c < channels; c++) {
      sum[c] += g[i + c];
      product[c] += g[i + c] * (x[i + c] - mean[c]) * factor[c];
    }
  if (to_weight) add(product, to_weight, it.channels);
  if (to_bias) add(sum, to_bias, it.channels);
  if (!before) return;
  for (int64_t c = 0; c < it.channels; c++) of_sum[c] = sum[c] * weight[c], of_product[c] = product[c] * weight[c];
  share_in_groups(it, of_sum);
  share_in_groups(it, of_product);
  for (int64_t i = 0; i < size; i += channels)
    for (int64_t c = 0; c < channels; c++) {
      const T scaled = c < it.channels ? g[i + c] * weight[c] : T(0);
      before[i + c] = factor[c] * (scaled - of_sum[c] - (x[i + c] - mean[c]) * factor[c] * of_product[c]);
    }
}

template <class T> void rectify(const T* x, T* y, int64_t size) {
  for (int64_t i = 0; i < size; i++) y[i] = x[i] > 0 ? x[i] : T(0);
}
template <class T> void mask(const T* g, const T* y, T* before, int64_t size) {
  if (before)
    for (int64_t i = 0; i < size; i++) before[i] = y[i] > 0 ? g[i] : T(0);
}
template <class T> void bend(const T* x, T* y, int64_t size) {
  for (int64_t i = 0; i < size; i++) y[i] = std::tanh(x[i]);
}
template <class T> void unbend(const T* g, const T* y, T* before, int64_t size) {
  if (before)
    for (int64_t i = 0; i < size; i++) before[i] = g[i] * (1 - y[i] * y[i]);
}

}  // namespace fedlag
