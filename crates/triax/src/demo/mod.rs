//! `triax demo`: the whole road on real text.

mod chart;
mod compressors;
mod corpus;
mod report;
mod summary;
