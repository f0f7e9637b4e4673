//! Whole networks on the reference device.

mod decoder;
mod finite_differences;
mod golden;
mod import_export;
mod layouts;
mod setup;
