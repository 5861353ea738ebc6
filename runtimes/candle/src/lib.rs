//! Safetensors models through Candle on the CPU.
