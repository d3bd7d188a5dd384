// A C interface over the ExecuTorch libraries: load a .pte, describe what it takes and gives, run it, read its outputs.
//
// edge_client/native/binding.py is its only caller. A method is used by one thread at a time. Nothing that a file holds is
// believed: every size is checked before memory is asked for, and no exception leaves these functions. What is left are
// the runtime's own checks that end the process; edge_client/native/probe.py meets them in a process of its own.

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <executorch/extension/data_loader/buffer_data_loader.h>
#include <executorch/extension/memory_allocator/malloc_memory_allocator.h>
#include <executorch/runtime/core/exec_aten/util/dim_order_util.h>
#include <executorch/runtime/executor/method.h>
#include <executorch/runtime/executor/program.h>
#include <executorch/runtime/platform/platform.h>
#include <executorch/runtime/platform/runtime.h>

using executorch::aten::SizesType;
using executorch::aten::Tensor;
using executorch::aten::TensorImpl;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::MethodMeta;
using executorch::runtime::Program;
using executorch::runtime::Result;
using executorch::runtime::Span;
using executorch::runtime::Tag;
using executorch::runtime::TensorInfo;

// The wheel ships these symbols, but not their header, extension/threadpool/threadpool.h.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(uint32_t num_threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace {

constexpr int MOST_DIMENSIONS = 16;

// What the runtime complained about last, in this thread; it replaces lines on stderr.
thread_local std::string last_complaint;

void keep_complaint(et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t, const char* message,
                    size_t length) {
  if (level != kError && level != kFatal) {
    return;  // what it could not find out about the processor, for one
  }
  if (level == kFatal) {  // the process ends now: a helper's parent reads this
    (void)!write(STDERR_FILENO, message, length);
    (void)!write(STDERR_FILENO, "\n", 1);
    return;
  }
  try {
    last_complaint.assign(message, length);
  } catch (const std::exception&) {
    last_complaint.clear();
  }
}

// Zeroed memory that takes room only where it is touched, between pages that nobody may touch.
class Arena {
 public:
  explicit Arena(size_t size) : page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))) {
    size_ = (size + page_ - 1) / page_ * page_;
    whole_ = mmap(nullptr, size_ + 2 * page_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (whole_ == MAP_FAILED || mprotect(begin(), size_, PROT_READ | PROT_WRITE) != 0) {
      release();
      throw std::bad_alloc();
    }
  }
  Arena(Arena&& other) noexcept : page_(other.page_), size_(other.size_), whole_(other.whole_) {
    other.whole_ = MAP_FAILED;
  }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() { release(); }

  uint8_t* begin() const { return static_cast<uint8_t*>(whole_) + page_; }

 private:
  void release() {
    if (whole_ != MAP_FAILED) {
      munmap(whole_, size_ + 2 * page_);
    }
  }

  size_t page_;
  size_t size_ = 0;
  void* whole_ = MAP_FAILED;
};

struct Description {
  std::vector<SizesType> sizes;  // the largest that the memory plan has room for
  std::vector<TensorImpl::DimOrderType> dim_order;
  executorch::aten::ScalarType type;
};

struct Method {
  std::vector<uint8_t> file;
  std::optional<executorch::extension::BufferDataLoader> loader;
  std::optional<Program> program;
  executorch::extension::MallocMemoryAllocator allocator;
  std::vector<Arena> arenas;
  std::vector<Span<uint8_t>> spans;
  std::optional<executorch::runtime::HierarchicalAllocator> planned;
  std::optional<executorch::runtime::MemoryManager> memory;
  std::vector<Description> inputs;
  std::vector<Description> outputs;
  std::optional<executorch::runtime::Method> method;  // destroyed first: it points into all of the above
};

struct Refusal : std::exception {
  explicit Refusal(std::string reason) : text(std::move(reason)) {}
  const char* what() const noexcept override { return text.c_str(); }
  std::string text;
};

void require(Error error) {
  if (error != Error::Ok) {
    std::string name = executorch::runtime::to_string(error);
    throw Refusal(last_complaint.empty() ? name : last_complaint + " (" + name + ")");
  }
}

template <typename T>
T take(Result<T>&& result) {
  require(result.error());
  return std::move(result.get());
}

void require(bool holds, const char* reason) {
  if (!holds) {
    throw Refusal(reason);
  }
}

Description describe(Result<Tag> tag, Result<TensorInfo> found) {
  require(take(std::move(tag)) == Tag::Tensor, "it takes or gives something that is not a tensor");
  TensorInfo info = take(std::move(found));
  Span<const int32_t> sizes = info.sizes();
  require(sizes.size() <= MOST_DIMENSIONS, "a tensor has too many dimensions");
  require(info.dim_order().size() == sizes.size(), "a tensor's dimensions have no order");
  require(executorch::runtime::is_contiguous_dim_order(info.dim_order().data(), sizes.size()),
          "a tensor's dimensions are not in their usual order");
  Description described{{sizes.begin(), sizes.end()}, {}, info.scalar_type()};
  for (size_t i = 0; i < sizes.size(); ++i) {
    require(sizes[i] >= 0, "a tensor has a negative size");
    described.dim_order.push_back(static_cast<TensorImpl::DimOrderType>(i));
  }
  return described;
}

void plan_memory(Method& method, const MethodMeta& meta, uint64_t most_bytes) {
  uint64_t total = 0;
  for (size_t i = 0; i < meta.num_memory_planned_buffers(); ++i) {
    int64_t size = take(meta.memory_planned_buffer_size(i));
    require(size >= 0 && static_cast<uint64_t>(size) <= most_bytes - total, "it plans with more memory than there is");
    total += static_cast<uint64_t>(size);
    method.arenas.emplace_back(static_cast<size_t>(size));
    method.spans.emplace_back(method.arenas.back().begin(), static_cast<size_t>(size));
  }
  method.planned.emplace(Span<Span<uint8_t>>(method.spans.data(), method.spans.size()));
  method.memory.emplace(&method.allocator, &method.planned.value());
}

std::unique_ptr<Method> load(const void* data, size_t size, uint64_t most_bytes) {
  auto method = std::make_unique<Method>();
  const auto* bytes = static_cast<const uint8_t*>(data);
  method->file.assign(bytes, bytes + size);
  method->loader.emplace(method->file.data(), size);
  method->program.emplace(take(Program::load(&method->loader.value(), Program::Verification::InternalConsistency)));
  MethodMeta meta = take(method->program->method_meta("forward"));
  for (size_t i = 0; i < meta.num_inputs(); ++i) {
    method->inputs.push_back(describe(meta.input_tag(i), meta.input_tensor_meta(i)));
  }
  for (size_t i = 0; i < meta.num_outputs(); ++i) {
    method->outputs.push_back(describe(meta.output_tag(i), meta.output_tensor_meta(i)));
  }
  plan_memory(*method, meta, most_bytes);
  method->method.emplace(take(method->program->load_method("forward", &method->memory.value())));
  return method;
}

void run(Method& method, void* const* data, const int32_t* sizes) {
  for (size_t i = 0; i < method.inputs.size(); ++i) {
    Description& input = method.inputs[i];
    std::vector<SizesType> here(sizes, sizes + input.sizes.size());
    sizes += input.sizes.size();
    std::vector<TensorImpl::StridesType> strides(here.size());
    require(executorch::runtime::dim_order_to_stride(here.data(), input.dim_order.data(), here.size(), strides.data()));
    TensorImpl tensor(input.type, static_cast<ssize_t>(here.size()), here.data(), data[i], input.dim_order.data(),
                      strides.data());
    require(method.method->set_input(EValue(Tensor(&tensor)), i));
  }
  require(method.method->execute());
}

void read_outputs(Method& method, const void** data, int32_t* sizes) {
  for (size_t i = 0; i < method.outputs.size(); ++i) {
    const EValue& value = method.method->get_output(i);
    require(value.isTensor(), "it gave something that is not a tensor");
    const Tensor& tensor = value.toTensor();
    const Description& output = method.outputs[i];
    require(tensor.scalar_type() == output.type && static_cast<size_t>(tensor.dim()) == output.sizes.size(),
            "it gave a tensor of another type or number of dimensions than the file says");
    require(tensor.numel() == 0 || tensor.const_data_ptr() != nullptr, "it gave a tensor without memory");
    for (size_t axis = 0; axis < output.sizes.size(); ++axis) {
      require(tensor.size(static_cast<ssize_t>(axis)) <= output.sizes[axis], "it gave a larger tensor than the file says");
      *sizes++ = tensor.size(static_cast<ssize_t>(axis));
    }
    data[i] = tensor.const_data_ptr();
  }
}

// Runs what may throw; returns whether it did not, and leaves the reason in `reason`, cut to `room` bytes.
template <typename Work>
bool attempt(char* reason, size_t room, Work work) noexcept {
  last_complaint.clear();
  try {
    work();
    return true;
  } catch (const std::exception& error) {
    std::strncpy(reason, error.what(), room - 1);
  } catch (...) {
    std::strncpy(reason, "an exception of unknown kind", room - 1);
  }
  reason[room - 1] = '\0';
  return false;
}

const std::vector<Description>& side(const Method* method, int is_output) {
  return is_output ? method->outputs : method->inputs;
}

}  // namespace

extern "C" {

// Starts the runtime, with one thread for all that this process computes.
bool fedlag_start(char* reason, size_t room) {
  return attempt(reason, room, [] {
    executorch::runtime::runtime_init();
    if (executorch::runtime::get_pal_impl()->emit_log_message == et_pal_emit_log_message) {  // else it is torch's
      executorch::runtime::register_pal(executorch::runtime::PalImpl::create(keep_complaint, "fedlag"));
    }
    auto* pool = executorch::extension::threadpool::get_threadpool();
    require(pool != nullptr && pool->_unsafe_reset_threadpool(1), "its threads cannot be limited to one");
  });
}

// Returns the method `forward` of these bytes, which are copied; null if they are refused.
void* fedlag_load(const void* data, size_t size, uint64_t most_bytes, char* reason, size_t room) {
  std::unique_ptr<Method> method;
  attempt(reason, room, [&] { method = load(data, size, most_bytes); });
  return method.release();
}

void fedlag_free(void* method) { delete static_cast<Method*>(method); }

// Returns the number of tensors that the method takes (is_output 0) or gives (1).
int fedlag_count(const void* method, int is_output) {
  return static_cast<int>(side(static_cast<const Method*>(method), is_output).size());
}

// Writes one tensor's type and largest sizes (room for 16), and returns the number of its dimensions.
int fedlag_describe(const void* method, int is_output, int index, int32_t* type, int32_t* sizes) {
  const Description& tensor = side(static_cast<const Method*>(method), is_output)[static_cast<size_t>(index)];
  *type = static_cast<int32_t>(tensor.type);
  std::copy(tensor.sizes.begin(), tensor.sizes.end(), sizes);
  return static_cast<int>(tensor.sizes.size());
}

// Runs the method over the caller's arrays: one pointer each, and all their sizes in one row. What it gives lies in the
// method's own memory until it runs again: pointers and sizes are written in the same way.
bool fedlag_run(void* method, void* const* data, const int32_t* sizes, const void** output_data, int32_t* output_sizes,
                char* reason, size_t room) {
  return attempt(reason, room, [&] {
    run(*static_cast<Method*>(method), data, sizes);
    read_outputs(*static_cast<Method*>(method), output_data, output_sizes);
  });
}

}  // extern "C"
