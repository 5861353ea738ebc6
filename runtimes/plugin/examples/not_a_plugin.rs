//! A shared library that exports nothing, for the tests.
