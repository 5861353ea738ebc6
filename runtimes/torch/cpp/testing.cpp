// For tests and measurements: TorchScript from source text, since there is no Python with torch where they run, and
// a loop with nothing around it.

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>

#include <chrono>
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

// Runs a module of one FP32 tensor for so many seconds, after a tenth of that to warm up. Returns runs per second.
extern "C" double mz_bare_loop(
    mz_text path, const int64_t* dims, size_t rank, int32_t threads, double seconds, mz_error* error) {
  return mz_guarded(error, [&] {
    at::set_num_threads(threads);
    c10::InferenceMode inference;
    auto module = torch::jit::load(std::string(path.data, path.len), at::Device(at::kCPU));
    const auto input = at::rand(at::IntArrayRef(dims, rank));
    const auto loop = [&](double wanted) {
      const auto began = std::chrono::steady_clock::now();
      const auto taken = [&] {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
      };
      int64_t runs = 0;
      for (; taken() < wanted; ++runs) module.forward({input});
      return static_cast<double>(runs) / taken();
    };
    loop(seconds / 10);
    return loop(seconds);
  });
}
