//! Dtypes, views into arenas, and the [`Device`] trait: the few dozen fused operations a transformer's
//! training step is made of. Two devices live here, [`mod@reference`] (slow, obviously right) and
//! [`cpu`] (fast); a GPU is a third implementation of the same trait.
//!
//! Nothing here knows models, ranks or files.

mod arena;
mod device;
mod dtype;
pub mod philox;
mod quantised;
mod shards;
mod table;
mod view;

pub mod cpu;
pub mod reference;

pub use arena::HostMemory;
pub use device::*;
pub use dtype::DType;
pub use quantised::{Cells, Coding, Quantised};
pub use shards::{even_shard_range, join_order, shard_range};
pub use table::{Class, Entry, Table};
pub use view::{Packed, View};
