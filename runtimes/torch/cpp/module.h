// libtorch as C sees it: what runtimes/torch/src/ffi.rs declares once more.
//
// No function throws. One that can fail takes an `mz_error` and says in it, by a text of its own making, what
// libtorch said; the caller frees the text. Nothing given to a function is kept, except what `mz_leaf` says.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

struct mz_module;
struct mz_answer;
struct mz_tensor;

struct mz_error {
  char* text;  // null if all went well; freed by mz_free_text
};

struct mz_text {
  const char* data;
  size_t len;
};

// What an argument of `forward` is.
enum mz_kind : int32_t {
  MZ_OTHER = 0,
  MZ_TENSOR = 1,
  MZ_INT = 2,
  MZ_FLOAT = 3,
  MZ_BOOL = 4,
  MZ_STRING = 5,
  MZ_STRINGS = 6,
  MZ_TENSOR_LIST = 7,
  MZ_TENSOR_TUPLE = 8,
  MZ_TENSOR_DICT = 9,
};

// An argument of `forward`, valid while the module is.
struct mz_argument {
  mz_text name;
  mz_text type;
  int32_t kind;
  bool has_default;
  size_t elements;  // of a tuple
};

// A value for an argument, or for a place in a container.
struct mz_leaf {
  mz_text key;  // where the container is a dict
  int32_t dtype;  // at::ScalarType; -1 if it is strings
  size_t rank;
  const int64_t* dims;
  const void* data;  // row major; kept until release(owner), which is called once, whatever comes of the call
  void* owner;
  void (*release)(void*);
  const mz_text* strings;
  size_t strings_len;
};

// The leaves of one argument: `count` of them from `first`; for an argument that is left to its default, none.
struct mz_slot {
  size_t first;
  size_t count;
  bool given;
};

struct mz_run_options {
  int32_t threads;  // within one operator; 0 leaves them as they are
  bool inference_mode;
  bool optimize;
  const uint8_t* cancel;  // looked at before each operator; other than 0 ends the run
};

// A tensor of an answer: contiguous, on the CPU, nobody else's.
struct mz_view {
  mz_tensor* tensor;
  int32_t dtype;
  size_t rank;
  const int64_t* dims;
  const void* data;
  size_t len;
};

const char* mz_version();
void mz_free_text(char* text);
// 0 if set, else the number that was set before, once and for the process.
int32_t mz_set_interop_threads(int32_t threads);

mz_module* mz_load(mz_text path, mz_error* error);
void mz_free_module(mz_module* module);
size_t mz_arguments(const mz_module* module);
mz_argument mz_argument_at(const mz_module* module, size_t index);

mz_answer* mz_run(
    const mz_module* module,
    const mz_leaf* leaves,
    size_t leaves_len,
    const mz_slot* slots,
    const mz_run_options* options,
    mz_error* error);
void mz_free_answer(mz_answer* answer);
// The tensors and lists of an answer, depth first, each with where it was: `key`, `[0]`, `boxes[1]`.
size_t mz_parts(const mz_answer* answer);
mz_text mz_part_path(const mz_answer* answer, size_t index);
bool mz_part_is_strings(const mz_answer* answer, size_t index);
size_t mz_strings(const mz_answer* answer, size_t index);
mz_text mz_string_at(const mz_answer* answer, size_t index, size_t string);
// Takes a tensor out of an answer, once; `view.tensor` is freed by mz_free_tensor.
bool mz_take_tensor(mz_answer* answer, size_t index, mz_view* view, mz_error* error);
void mz_free_tensor(mz_tensor* tensor);

}  // extern "C"
