//! The embedded Kubernetes API server over SQLite.
