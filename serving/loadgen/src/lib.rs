//! Load generator for any V2 server.
