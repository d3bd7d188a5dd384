// Runs a .pte once through the C interface (edge_client/native/runtime.cpp), as scripts/cross-check-aarch64 asks:
//
//   run_method FILE.pte SIZES INPUTS OUTPUTS
//
// SIZES has all inputs' sizes as int32, one after the other; INPUTS all their values, OUTPUTS all that the method gives.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <vector>

extern "C" {
bool fedlag_start(char* reason, size_t room);
void* fedlag_load(const void* data, size_t size, uint64_t most_bytes, char* reason, size_t room);
void fedlag_free(void* method);
int fedlag_count(const void* method, int is_output);
int fedlag_describe(const void* method, int is_output, int index, int32_t* type, int32_t* sizes);
bool fedlag_run(void* method, void* const* data, const int32_t* sizes, const void** output_data, int32_t* output_sizes,
                char* reason, size_t room);
}

namespace {

constexpr int32_t INT64 = 4;
char reason[512];

void require(bool holds) {
  if (!holds) {
    std::fprintf(stderr, "%s\n", reason);
    std::exit(1);
  }
}

std::vector<char> read(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Returns the bytes of the tensor whose sizes come next, and steps over them.
size_t num_bytes(const void* method, int is_output, int index, const int32_t*& sizes) {
  int32_t type = 0, largest[16];
  size_t bytes = 0;
  int dimensions = fedlag_describe(method, is_output, index, &type, largest);
  for (bytes = type == INT64 ? 8 : 4; dimensions > 0; --dimensions) {
    bytes *= static_cast<size_t>(*sizes++);
  }
  return bytes;
}

}  // namespace

int main(int, char** arguments) {
  std::vector<char> file = read(arguments[1]), sizes = read(arguments[2]), values = read(arguments[3]);
  require(fedlag_start(reason, sizeof reason));
  void* method = fedlag_load(file.data(), file.size(), uint64_t{1} << 32, reason, sizeof reason);
  require(method != nullptr);
  std::vector<void*> inputs;
  const auto* size = reinterpret_cast<const int32_t*>(sizes.data());
  size_t offset = 0;
  for (int i = 0; i < fedlag_count(method, 0); ++i) {
    size_t bytes = num_bytes(method, 0, i, size);
    inputs.push_back(std::malloc(bytes));
    std::copy_n(values.data() + offset, bytes, static_cast<char*>(inputs.back()));
    offset += bytes;
  }
  std::vector<const void*> outputs(static_cast<size_t>(fedlag_count(method, 1)));
  std::vector<int32_t> output_sizes(16 * outputs.size());
  require(fedlag_run(method, inputs.data(), reinterpret_cast<const int32_t*>(sizes.data()), outputs.data(),
                     output_sizes.data(), reason, sizeof reason));
  std::ofstream given(arguments[4], std::ios::binary);
  const int32_t* output_size = output_sizes.data();
  for (size_t i = 0; i < outputs.size(); ++i) {
    size_t bytes = num_bytes(method, 1, static_cast<int>(i), output_size);
    given.write(static_cast<const char*>(outputs[i]), static_cast<std::streamsize>(bytes));
  }
  fedlag_free(method);
  return given.good() ? 0 : 1;
}
