//! How the CPU device keeps quantised weights: super-panels of 64 outputs, each one stream through memory.
//!
//! ```text
//! super-panel   codes   [groups of 32][4 panels][quads of the inner dimension][16 outputs][4 codes]
//!               scales  [groups of 32][parts][scale, minimum][4 panels][16 outputs]
//! ```
//!
//! 4-bit codes: the low nibbles of a quad's bytes are one quad, the high nibbles the next one.

use crate::{Cells, Coding};
use half::f16;

/// Outputs of a panel: the lanes of a vector.
pub(super) const LANES: usize = 16;
/// Panels of a super-panel.
pub(super) const PANELS: usize = 4;

/// What a kernel must know of a coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// 4-bit codes, else 8-bit.
    pub(super) nibbles: bool,
    /// f16 scales and minima, else f32.
    pub(super) halves: bool,
    /// Two scales for 32 weights, else one.
    pub(super) parts: usize,
    pub(super) minima: bool,
    pub(super) zero: i32,
}

impl Form {
    pub(super) fn of(coding: Coding) -> Self {
        Self {
            nibbles: matches!(coding, Coding::Q4_0 | Coding::Q4_1 | Coding::Q4K),
            halves: matches!(coding, Coding::Q8_0 | Coding::Q4_0 | Coding::Q4_1),
            parts: 32 / coding.group(),
            minima: coding.has_minima(),
            zero: i32::from(coding.zero()),
        }
    }

    /// Bytes of a panel's codes of 32 inner elements.
    pub(super) const fn code_bytes(self) -> usize {
        if self.nibbles { 256 } else { 512 }
    }

    /// Bytes of one lane's scale or minimum.
    const fn number(self) -> usize {
        if self.halves { 2 } else { 4 }
    }

    /// Rows of 64 numbers in a group of 32.
    const fn number_rows(self) -> usize {
        if self.minima { 2 * self.parts } else { self.parts }
    }
}

/// Bytes of the codes of a super-panel; its scales lie behind them.
fn codes_bytes(inner: usize, form: Form) -> usize {
    inner.div_ceil(32) * PANELS * form.code_bytes()
}

pub(super) fn super_bytes(inner: usize, coding: Coding) -> usize {
    let form = Form::of(coding);
    codes_bytes(inner, form) + inner.div_ceil(32) * form.number_rows() * PANELS * LANES * form.number()
}

/// Size of a matrix.
pub(in super::super) fn bytes(inner: usize, outer: usize, coding: Coding) -> usize {
    outer.div_ceil(PANELS * LANES) * super_bytes(inner, coding)
}

/// Packs up to 64 rows of blocks into a super-panel.
pub(super) fn pack(inner: usize, coding: Coding, rows: &[u8], to: &mut [u8]) {
    let form = Form::of(coding);
    let (codes, numbers) = to.split_at_mut(codes_bytes(inner, form));
    codes.fill(0);
    numbers.fill(0);
    let mut cells = Cells::default();
    for (output, row) in rows.chunks_exact(coding.row_bytes(inner)).enumerate() {
        let (panel, lane) = (output / LANES, output % LANES);
        for (block, bytes) in row.chunks_exact(coding.block_bytes()).enumerate() {
            coding.unpack(bytes, &mut cells);
            let first = block * coding.block();
            for (i, &code) in cells.codes[..coding.block().min(inner - first)].iter().enumerate() {
                let (group, k) = ((first + i) / 32, (first + i) % 32);
                let panel = &mut codes[(group * PANELS + panel) * form.code_bytes()..][..form.code_bytes()];
                let (quad, byte) = (k / 4, lane * 4 + k % 4);
                match form.nibbles {
                    true => panel[quad / 2 * 64 + byte] |= code << (4 * (quad % 2)),
                    false => panel[quad * 64 + byte] = code,
                }
            }
            let share = coding.group();
            for i in (0..coding.block().min(inner - first)).step_by(share) {
                let (scale, minimum) = (cells.scales[i / share], cells.minima[i / share]);
                let part = (first + i) / share;
                let kinds = if form.minima { 2 } else { 1 };
                for (kind, value) in [scale, minimum].into_iter().take(kinds).enumerate() {
                    let at = ((part * kinds + kind) * PANELS + panel) * LANES + lane;
                    match form.halves {
                        true => numbers[2 * at..][..2].copy_from_slice(&f16::from_f32(value).to_le_bytes()),
                        false => numbers[4 * at..][..4].copy_from_slice(&value.to_le_bytes()),
                    }
                }
            }
        }
    }
}

/// 8-bit codes of the pair of panels from `first` on: `[groups of 32][2][8 quads][16][4]`.
#[inline(always)]
pub(super) fn unpack(part: &[u8], inner: usize, first: usize, to: &mut [u8]) {
    for (group, to) in to.chunks_exact_mut(2 * 512).take(inner.div_ceil(32)).enumerate() {
        let from = &part[(group * PANELS + first) * 256..][..2 * 256];
        for (from, to) in from.chunks_exact(64).zip(to.chunks_exact_mut(128)) {
            let (low, high) = to.split_at_mut(64);
            for i in 0..64 {
                low[i] = from[i] & 15;
                high[i] = from[i] >> 4;
            }
        }
    }
}

/// Some neighbouring panels of a super-panel.
pub(super) struct Weights<'a> {
    codes: &'a [u8],
    /// Bytes from one group of 32 to the next.
    code_step: usize,
    numbers: &'a [u8],
    number_step: usize,
    /// Bytes of the super-panel.
    size: usize,
}

impl<'a> Weights<'a> {
    /// The panels from `first` on.
    pub(super) fn new(part: &'a [u8], inner: usize, form: Form, first: usize) -> Self {
        let (codes, numbers) = part.split_at(codes_bytes(inner, form));
        Self {
            codes: &codes[first * form.code_bytes()..],
            code_step: PANELS * form.code_bytes(),
            numbers: &numbers[first * LANES * form.number()..],
            number_step: form.number_rows() * PANELS * LANES * form.number(),
            size: part.len(),
        }
    }

    /// Where the codes and the numbers of a group of this super-panel lie, or of the one behind it in memory. To be
    /// brought nearer, not to be read: there may be none.
    #[inline(always)]
    pub(super) fn ahead(&self, group: usize, groups: usize) -> [*const u8; 2] {
        let (group, skipped) = if group < groups { (group, 0) } else { (group - groups, self.size) };
        let codes = self.codes.as_ptr().wrapping_add(skipped + group * self.code_step);
        [codes, self.numbers.as_ptr().wrapping_add(skipped + group * self.number_step)]
    }

    /// Bytes of the numbers of a group, of all panels.
    pub(super) const fn number_bytes(&self) -> usize {
        self.number_step
    }

    /// Takes the codes from what [`unpack`] wrote.
    pub(super) fn unpacked(&mut self, codes: &'a [u8]) {
        self.codes = codes;
        self.code_step = 2 * 512;
    }

    /// A panel's codes of a group of 32.
    #[inline(always)]
    pub(super) fn codes(&self, form: Form, group: usize, panel: usize) -> *const u8 {
        debug_assert!(group * self.code_step + (panel + 1) * form.code_bytes() <= self.codes.len());
        self.codes.as_ptr().wrapping_add(group * self.code_step + panel * form.code_bytes())
    }

    /// A panel's scales (kind 0) or minima (kind 1) of a part of a group.
    #[inline(always)]
    pub(super) fn numbers(
        &self,
        form: Form,
        group: usize,
        part: usize,
        kind: usize,
        panel: usize,
    ) -> *const u8 {
        let row = if form.minima { 2 * part + kind } else { part };
        let at = group * self.number_step + (row * PANELS + panel) * LANES * form.number();
        debug_assert!(at + LANES * form.number() <= self.numbers.len());
        self.numbers.as_ptr().wrapping_add(at)
    }
}
