// TorchScript from source text, for tests: there is no Python with torch where they run.

#include <ATen/Functions.h>
#include <torch/csrc/jit/api/module.h>

#include <string>

#include "module.h"
#include "text.h"

// An attribute: a buffer of `len` FP32, filled in by the caller.
struct mz_buffer {
  mz_text name;
  const int64_t* dims;
  size_t rank;
  const float* data;
};

// Compiles methods of a module (`def forward(self, x): ...`) and writes it to a file.
extern "C" void mz_compile(
    mz_text source, const mz_buffer* buffers, size_t buffers_len, mz_text path, mz_error* error) {
  mz_guarded(error, [&] {
    torch::jit::Module module("Model");
    for (size_t i = 0; i < buffers_len; ++i) {
      const auto& buffer = buffers[i];
      const at::IntArrayRef dims(buffer.dims, buffer.rank);
      const auto borrowed = at::from_blob(const_cast<float*>(buffer.data), dims, at::TensorOptions(at::kFloat));
      module.register_buffer(std::string(buffer.name.data, buffer.name.len), borrowed.clone());
    }
    module.define(std::string(source.data, source.len));
    module.save(std::string(path.data, path.len));
    return true;
  });
}
