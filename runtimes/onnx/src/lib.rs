//! ONNX models through ONNX Runtime, opened at run time.
