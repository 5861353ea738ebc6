//! Operations on sixteen lanes, three times over.
//!
//! A *dot* takes a line of weights, four bytes of each of sixteen outputs, and four inputs. Weights
//! of four bits are 0 to 15; those of eight are stored 128 too large, as the byte products of
//! AVX-512 take the one side without a sign. A dot with `count`, the sum of the inputs that will be
//! dotted, starts at what takes the excess off again.

/// AVX-512 with VNNI, as in Ice Lake, Zen 4 and what came after.
#[cfg(target_arch = "x86_64")]
pub(super) mod v4x {
    use archmage::rite;

    use crate::kernels::wide::{Lane, Line};

    pub(in crate::kernels::wide) type V = core::arch::x86_64::__m512;
    pub(in crate::kernels::wide) type Bytes = core::arch::x86_64::__m512i;
    /// Sums of dots of nibbles and of bytes.
    pub(in crate::kernels::wide) type Nibbles = Bytes;
    pub(in crate::kernels::wide) type Sums = Bytes;

    #[rite(v4x, import_intrinsics)]
    pub(in crate::kernels::wide) fn zero() -> V {
        _mm512_setzero_ps()
    }

    #[rite(v4x, import_intrinsics)]
    pub(in crate::kernels::wide) fn splat(x: f32) -> V {
        _mm512_set1_ps(x)
    }

    #[rite(v4x, import_intrinsics)]
    pub(in crate::kernels::wide) fn load(from: &Lane) -> V {
        _mm512_loadu_ps(from)
    }

    #[rite(v4x, import_intrinsics)]
    pub(in crate::kernels::wide) fn store(to: &mut Lane, x: V) {
        _mm512_storeu_ps(to, x);
    }

    #[rite(v4x, import_intrinsics)]
    pub(in crate::kernels::wide) fn half_floats(from: &[u16; 16]) -> V {
        _mm512_cvtph_ps(_mm256_loadu_si256(from))
    }

    #[rite(v4x, import_intrinsics)]
    pub(in crate::kernels::wide) fn brain_floats(from: &[u16; 16]) -> V {
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(
            from,
        ))))
    }

    #[rite(v4x, import_intrinsics)]
    pub(in crate::kernels::wide) fn small_numbers(from: &[i8; 16]) -> V {
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from)))
    }

    #[rite(v4x, import_intrinsics)]
    pub(in crate::kernels::wide) fn plus(a: V, b: V) -> V {
        _mm512_add_ps(a, b)
    }

    #[rite(v4x, import_intrinsics)]
    pub(in crate::kernels::wide) fn times(a: V, b: V) -> V {
        _mm512_mul_ps(a, b)
    }

    /// `a · b + c`.
    #[rite(v4x, import_intrinsics)]
    pub(in crate::kernels::wide) fn fma(a: V, b: V, c: V) -> V {
        _mm512_fmadd_ps(a, b, c)
    }

    #[rite(v4x, import_intrinsics)]
    pub(in crate::kernels::wide) fn load_line(from: &Line<[u8; 64]>) -> Bytes {
        _mm512_loadu_si512(&from.0)
    }

    #[rite(v4x, import_intrinsics)]
    pub(in crate::kernels::wide) fn low(line: Bytes) -> Bytes {
        _mm512_and_si512(line, _mm512_set1_epi8(0x0f))
    }

    #[rite(v4x, import_intrinsics)]
    pub(in crate::kernels::wide) fn high(line: Bytes) -> Bytes {
        _mm512_and_si512(_mm512_srli_epi16::<4>(line), _mm512_set1_epi8(0x0f))
    }

    #[rite(v4x, import_intrinsics)]
    pub(in crate::kernels::wide) fn start_nibbles<const EXCESS: i32>(count: i32) -> Nibbles {
        if EXCESS == 0 {
            _mm512_setzero_si512()
        } else {
            _mm512_set1_epi32(count.wrapping_mul(-EXCESS))
        }
    }

    #[rite(v4x, import_intrinsics)]
    pub(in crate::kernels::wide) fn dot_nibbles(
        sums: Nibbles,
        weights: Bytes,
        inputs: i32,
    ) -> Nibbles {
        _mm512_dpbusd_epi32(sums, weights, _mm512_set1_epi32(inputs))
    }

    #[rite(v4x, import_intrinsics)]
    pub(in crate::kernels::wide) fn nibbles_done(sums: Nibbles) -> V {
        _mm512_cvtepi32_ps(sums)
    }

    #[rite(v4x, import_intrinsics)]
    pub(in crate::kernels::wide) fn start_bytes(count: i32) -> Sums {
        _mm512_set1_epi32(count.wrapping_mul(-128))
    }

    #[rite(v4x, import_intrinsics)]
    pub(in crate::kernels::wide) fn dot_bytes(sums: Sums, weights: Bytes, inputs: i32) -> Sums {
        _mm512_dpbusd_epi32(sums, weights, _mm512_set1_epi32(inputs))
    }

    #[rite(v4x, import_intrinsics)]
    pub(in crate::kernels::wide) fn bytes_done(sums: Sums) -> V {
        _mm512_cvtepi32_ps(sums)
    }
}

/// AVX2 with FMA and F16C.
#[cfg(target_arch = "x86_64")]
pub(super) mod v3 {
    use core::arch::x86_64::{__m256, __m256i};

    use archmage::rite;

    use crate::kernels::wide::{Lane, Line};

    pub(in crate::kernels::wide) type V = [__m256; 2];
    pub(in crate::kernels::wide) type Bytes = [__m256i; 2];

    /// Pairs of products add up in 16 bits, which hold the eight dots of a block: 8 · 2 · 15 · 127.
    #[derive(Clone, Copy)]
    pub(in crate::kernels::wide) struct Nibbles {
        pairs: Bytes,
        first: i32,
    }

    pub(in crate::kernels::wide) type Sums = Bytes;

    #[rite(v3, import_intrinsics)]
    pub(in crate::kernels::wide) fn zero() -> V {
        [_mm256_setzero_ps(); 2]
    }

    #[rite(v3, import_intrinsics)]
    pub(in crate::kernels::wide) fn splat(x: f32) -> V {
        [_mm256_set1_ps(x); 2]
    }

    #[rite(v3, import_intrinsics)]
    pub(in crate::kernels::wide) fn load(from: &Lane) -> V {
        let [a, b] = from.as_chunks::<8>().0 else { unreachable!("sixteen are twice eight") };
        [_mm256_loadu_ps(a), _mm256_loadu_ps(b)]
    }

    #[rite(v3, import_intrinsics)]
    pub(in crate::kernels::wide) fn store(to: &mut Lane, x: V) {
        let [a, b] = to.as_chunks_mut::<8>().0 else { unreachable!("sixteen are twice eight") };
        _mm256_storeu_ps(a, x[0]);
        _mm256_storeu_ps(b, x[1]);
    }

    #[rite(v3, import_intrinsics)]
    pub(in crate::kernels::wide) fn half_floats(from: &[u16; 16]) -> V {
        let [a, b] = from.as_chunks::<8>().0 else { unreachable!("sixteen are twice eight") };
        [_mm256_cvtph_ps(_mm_loadu_si128(a)), _mm256_cvtph_ps(_mm_loadu_si128(b))]
    }

    #[rite(v3, import_intrinsics)]
    fn brain_half(from: &[u16; 8]) -> __m256 {
        let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
    }

    #[rite(v3, import_intrinsics)]
    pub(in crate::kernels::wide) fn brain_floats(from: &[u16; 16]) -> V {
        let [a, b] = from.as_chunks::<8>().0 else { unreachable!("sixteen are twice eight") };
        [brain_half(a), brain_half(b)]
    }

    #[rite(v3, import_intrinsics)]
    pub(in crate::kernels::wide) fn small_numbers(from: &[i8; 16]) -> V {
        let bytes = _mm_loadu_si128(from);
        let upper = _mm_srli_si128::<8>(bytes);
        [
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(upper)),
        ]
    }

    #[rite(v3, import_intrinsics)]
    pub(in crate::kernels::wide) fn plus(a: V, b: V) -> V {
        [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])]
    }

    #[rite(v3, import_intrinsics)]
    pub(in crate::kernels::wide) fn times(a: V, b: V) -> V {
        [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])]
    }

    /// `a · b + c`.
    #[rite(v3, import_intrinsics)]
    pub(in crate::kernels::wide) fn fma(a: V, b: V, c: V) -> V {
        [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
    }

    #[rite(v3, import_intrinsics)]
    pub(in crate::kernels::wide) fn load_line(from: &Line<[u8; 64]>) -> Bytes {
        let [a, b] = from.0.as_chunks::<32>().0 else { unreachable!("64 are twice 32") };
        [_mm256_loadu_si256(a), _mm256_loadu_si256(b)]
    }

    #[rite(v3, import_intrinsics)]
    pub(in crate::kernels::wide) fn low(line: Bytes) -> Bytes {
        let mask = _mm256_set1_epi8(0x0f);
        [_mm256_and_si256(line[0], mask), _mm256_and_si256(line[1], mask)]
    }

    #[rite(v3, import_intrinsics)]
    pub(in crate::kernels::wide) fn high(line: Bytes) -> Bytes {
        low([_mm256_srli_epi16::<4>(line[0]), _mm256_srli_epi16::<4>(line[1])])
    }

    #[rite(v3, import_intrinsics)]
    pub(in crate::kernels::wide) fn start_nibbles<const EXCESS: i32>(count: i32) -> Nibbles {
        Nibbles { pairs: [_mm256_setzero_si256(); 2], first: count.wrapping_mul(-EXCESS) }
    }

    #[rite(v3, import_intrinsics)]
    pub(in crate::kernels::wide) fn dot_nibbles(
        sums: Nibbles,
        weights: Bytes,
        inputs: i32,
    ) -> Nibbles {
        let inputs = _mm256_set1_epi32(inputs);
        let a = _mm256_maddubs_epi16(weights[0], inputs);
        let b = _mm256_maddubs_epi16(weights[1], inputs);
        let pairs = [_mm256_add_epi16(sums.pairs[0], a), _mm256_add_epi16(sums.pairs[1], b)];
        Nibbles { pairs, ..sums }
    }

    #[rite(v3, import_intrinsics)]
    pub(in crate::kernels::wide) fn nibbles_done(sums: Nibbles) -> V {
        let (first, ones) = (_mm256_set1_epi32(sums.first), _mm256_set1_epi16(1));
        let a = _mm256_add_epi32(_mm256_madd_epi16(sums.pairs[0], ones), first);
        let b = _mm256_add_epi32(_mm256_madd_epi16(sums.pairs[1], ones), first);
        [_mm256_cvtepi32_ps(a), _mm256_cvtepi32_ps(b)]
    }

    #[rite(v3, import_intrinsics)]
    pub(in crate::kernels::wide) fn start_bytes(_count: i32) -> Sums {
        [_mm256_setzero_si256(); 2]
    }

    #[rite(v3, import_intrinsics)]
    fn dot_byte(sums: __m256i, weights: __m256i, inputs: __m256i) -> __m256i {
        // The weight as it is, its sign moved over to the input: 2 · 128 · 127 fit 16 bits.
        let weights = _mm256_xor_si256(weights, _mm256_set1_epi8(-128));
        let inputs = _mm256_sign_epi8(inputs, weights);
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), inputs);
        _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }

    #[rite(v3, import_intrinsics)]
    pub(in crate::kernels::wide) fn dot_bytes(sums: Sums, weights: Bytes, inputs: i32) -> Sums {
        let inputs = _mm256_set1_epi32(inputs);
        [dot_byte(sums[0], weights[0], inputs), dot_byte(sums[1], weights[1], inputs)]
    }

    #[rite(v3, import_intrinsics)]
    pub(in crate::kernels::wide) fn bytes_done(sums: Sums) -> V {
        [_mm256_cvtepi32_ps(sums[0]), _mm256_cvtepi32_ps(sums[1])]
    }
}

/// Plain code: any processor, and what the others must agree with.
pub(super) mod plain {
    use half::{bf16, f16};

    use crate::kernels::wide::{LANES, Lane, Line};

    pub(in crate::kernels::wide) type V = Lane;
    pub(in crate::kernels::wide) type Bytes = [u8; 64];
    pub(in crate::kernels::wide) type Nibbles = [i32; LANES];
    pub(in crate::kernels::wide) type Sums = [i32; LANES];

    /// Stands where the others have proof of what the processor can do.
    #[derive(Clone, Copy)]
    pub(in crate::kernels::wide) struct Token;

    fn each(f: impl FnMut(usize) -> f32) -> V {
        std::array::from_fn(f)
    }

    pub(in crate::kernels::wide) fn zero() -> V {
        [0.0; LANES]
    }

    pub(in crate::kernels::wide) fn splat(x: f32) -> V {
        [x; LANES]
    }

    pub(in crate::kernels::wide) fn load(from: &Lane) -> V {
        *from
    }

    pub(in crate::kernels::wide) fn store(to: &mut Lane, x: V) {
        *to = x;
    }

    pub(in crate::kernels::wide) fn half_floats(from: &[u16; 16]) -> V {
        each(|i| f16::from_bits(from[i]).to_f32())
    }

    pub(in crate::kernels::wide) fn brain_floats(from: &[u16; 16]) -> V {
        each(|i| bf16::from_bits(from[i]).to_f32())
    }

    pub(in crate::kernels::wide) fn small_numbers(from: &[i8; 16]) -> V {
        each(|i| f32::from(from[i]))
    }

    pub(in crate::kernels::wide) fn plus(a: V, b: V) -> V {
        each(|i| a[i] + b[i])
    }

    pub(in crate::kernels::wide) fn times(a: V, b: V) -> V {
        each(|i| a[i] * b[i])
    }

    /// `a · b + c`, in two roundings: where one is not an instruction it is a slow call.
    pub(in crate::kernels::wide) fn fma(a: V, b: V, c: V) -> V {
        each(|i| a[i] * b[i] + c[i])
    }

    pub(in crate::kernels::wide) fn load_line(from: &Line<[u8; 64]>) -> Bytes {
        from.0
    }

    pub(in crate::kernels::wide) fn low(line: Bytes) -> Bytes {
        line.map(|byte| byte & 0x0f)
    }

    pub(in crate::kernels::wide) fn high(line: Bytes) -> Bytes {
        line.map(|byte| byte >> 4)
    }

    pub(in crate::kernels::wide) fn start_nibbles<const EXCESS: i32>(count: i32) -> Nibbles {
        [count.wrapping_mul(-EXCESS); LANES]
    }

    pub(in crate::kernels::wide) fn dot_nibbles(
        mut sums: Nibbles,
        weights: Bytes,
        inputs: i32,
    ) -> Nibbles {
        let inputs = inputs.to_le_bytes().map(|byte| i32::from(byte as i8));
        for (sum, weights) in sums.iter_mut().zip(weights.as_chunks::<4>().0) {
            *sum += (0..4).map(|k| i32::from(weights[k]) * inputs[k]).sum::<i32>();
        }
        sums
    }

    pub(in crate::kernels::wide) fn nibbles_done(sums: Nibbles) -> V {
        sums.map(|sum| sum as f32)
    }

    pub(in crate::kernels::wide) fn start_bytes(count: i32) -> Sums {
        [count.wrapping_mul(-128); LANES]
    }

    pub(in crate::kernels::wide) fn dot_bytes(sums: Sums, weights: Bytes, inputs: i32) -> Sums {
        dot_nibbles(sums, weights, inputs)
    }

    pub(in crate::kernels::wide) fn bytes_done(sums: Sums) -> V {
        nibbles_done(sums)
    }
}
