// Errors as text.
#pragma once

#include <c10/util/Exception.h>

#include <cstring>
#include <exception>
#include <string>

#include "module.h"

inline void mz_say(mz_error* error, const char* text) { error->text = strdup(text); }

// Calls `body`; what it throws becomes the error's text, without libtorch's own stack.
template <typename Body>
auto mz_guarded(mz_error* error, Body body) -> decltype(body()) {
  error->text = nullptr;
  try {
    return body();
  } catch (const c10::Error& e) {
    mz_say(error, e.what_without_backtrace());
  } catch (const std::exception& e) {
    mz_say(error, e.what());
  } catch (...) {
    mz_say(error, "libtorch threw something that is not an exception");
  }
  return decltype(body()){};
}
