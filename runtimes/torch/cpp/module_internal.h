// What the files of this directory share.
#pragma once

#include <torch/csrc/jit/api/module.h>

#include <optional>
#include <string>
#include <vector>

#include "module.h"

struct Argument {
  std::string name;
  std::string type;
  int32_t kind;
  size_t elements;
  std::optional<c10::IValue> fallback;
};

struct mz_module {
  torch::jit::Module module;
  std::vector<Argument> arguments;
  // Arguments that the code may write into.
  std::vector<bool> written;
};
