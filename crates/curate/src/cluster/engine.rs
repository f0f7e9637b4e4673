//! The submitting side: plans are made here, run by the cluster, and their counts checked here.

use super::columns;
use super::inside;
use super::roles::{parse, runtime};
use super::sink::{Codec, Parts};
use super::{ClusterError, conserve};
use crate::global::GlobalError;
use crate::runs::{Record, RunReader};
use ballista_core::execution_plans::execute_physical_plan;
use ballista_core::extension::SessionConfigExt as _;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use datafusion_proto::protobuf::PhysicalPlanNode;
use futures_util::StreamExt as _;
use std::fmt::Write as _;
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Runtime;

/// Times a plan is tried: Ballista gives a dead worker's tasks to others, but not what the last stage left on it.
const ATTEMPTS: usize = 3;
/// Rows for which a task is worth while, and the most tasks of a stage.
const ROWS_A_TASK: u64 = 1 << 22;
const MOST_TASKS: u64 = 1024;
const FEWEST_TASKS: u64 = 4;

/// Bytes of a row in memory, about; batches that a task can hold at once; and their bounds in rows, the upper one
/// DataFusion's.
const ROW: u64 = 64;
const BATCHES: u64 = 128;
const FEWEST_ROWS: u64 = 256;
const MOST_ROWS: u64 = 8192;

/// A cluster that can be reached.
#[derive(Debug)]
pub struct Cluster {
    runtime: Runtime,
    /// HOST:PORT of the coordinator.
    address: String,
    session: String,
    /// Bytes of a task's memory, as far as they are known here.
    task_memory: u64,
    /// Of the worker inside this process; goes after the runtime, which its tasks end with.
    #[expect(dead_code, reason = "only dropped")]
    scratch: Option<Scratch>,
}

/// A folder that goes with the value.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // It is not there unless a task ran; what remains is removed at the end of the run.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Rows in Parquet files.
#[derive(Debug)]
pub struct Table {
    relation: &'static str,
    files: Vec<PathBuf>,
    rows: u64,
    /// Made by a plan, and removed with the value.
    folder: Option<PathBuf>,
}

impl Drop for Table {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            // What remains is removed with the run's intermediate files.
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

impl Table {
    /// Rows in it.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }
}

impl Cluster {
    /// `address`: HOST:PORT of a coordinator.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(address: &str) -> Result<Self, ClusterError> {
        let action = "reach the coordinator at";
        let fault = |error: std::io::Error| ClusterError {
            action,
            address: address.to_owned(),
            message: format!("{error}; triax cluster coordinator starts one"),
        };
        parse(action, address)?;
        TcpStream::connect(address).map_err(fault)?;
        let (runtime, address) = (runtime().map_err(fault)?, address.to_owned());
        Ok(Self { runtime, address, session: session(), task_memory: u64::MAX, scratch: None })
    }

    /// A coordinator and a worker inside this process. The worker runs `threads` tasks at once, whose sorts and aggregates
    /// hold `memory` bytes before they spill; what they spill and shuffle lies in a folder of its own in `scratch`, which
    /// is made with the first of it and removed with the value.
    ///
    /// # Errors
    /// When they cannot listen.
    pub fn standalone(threads: usize, memory: u64, scratch: &Path) -> Result<Self, ClusterError> {
        let fault = |message: String| ClusterError {
            action: "start a cluster in",
            address: "this process".into(),
            message,
        };
        let (runtime, session) = (runtime().map_err(|error| fault(error.to_string()))?, session());
        let scratch = std::path::absolute(scratch)
            .map_err(|error| fault(format!("{}: {error}", scratch.display())))?
            .join(&session);
        let address = runtime
            .block_on(inside::start(threads, memory, &scratch))
            .map_err(|error| fault(error.to_string()))?;
        let address = format!("localhost:{}", address.port());
        let task_memory = memory / threads.max(1) as u64;
        Ok(Self { runtime, address, session, task_memory, scratch: Some(Scratch(scratch)) })
    }

    /// Writes a run's rows where plans read them, unless that was done.
    ///
    /// # Errors
    /// When the run is damaged or the disk full.
    pub fn share<R: Record>(&self, run: &Path) -> Result<(), GlobalError> {
        let path = run.with_extension("parquet");
        if !path.exists() {
            columns::write::<R>(run, &path)?;
        }
        Ok(())
    }

    /// The rows of all shards, as their runs count them. What was collected without a cluster is shared now.
    ///
    /// # Errors
    /// When a run is damaged, or its shared rows are not as many.
    pub fn table<R: Record>(&self, relation: &'static str, runs: &[PathBuf]) -> Result<Table, GlobalError> {
        let mut table = Table { relation, files: Vec::new(), rows: 0, folder: None };
        for run in runs {
            self.share::<R>(run)?;
            let path = run.with_extension("parquet");
            let (counted, shared) =
                (RunReader::count(&RunReader::<R>::open(run, 1 << 12)?), columns::count(&path)?);
            conserve(relation, shared, counted, "are in the shard's run")?;
            if shared > 0 {
                table
                    .files
                    .push(std::path::absolute(&path).map_err(|error| GlobalError::io("find", &path, error))?);
            }
            table.rows += shared;
        }
        Ok(table)
    }

    /// Runs `sql` over one table, known to it under the name given, and leaves its rows in a folder of `out`.
    ///
    /// # Errors
    /// When the cluster fails a few times, or the rows found are not as many as its tasks say.
    pub fn relate(
        &self,
        relation: &'static str,
        sql: &str,
        (name, table): (&str, &Table),
        out: &Path,
    ) -> Result<Table, GlobalError> {
        let folder =
            std::path::absolute(out).map_err(|error| GlobalError::io("find", out, error))?.join(relation);
        let mut made = Table { relation, files: Vec::new(), rows: 0, folder: Some(folder.clone()) };
        if table.rows == 0 {
            return Ok(made);
        }
        let fault = |message| GlobalError::Cluster { relation, address: self.address.clone(), message };
        let tasks = (table.rows / ROWS_A_TASK).clamp(FEWEST_TASKS, MOST_TASKS) as usize;
        let plan = self
            .runtime
            .block_on(plan(sql, name, table, self.config(tasks)))
            .map_err(|error| fault(error.to_string()))?;
        let mut attempt = 1;
        let parts = loop {
            let place = folder.join(format!("attempt-{attempt}"));
            std::fs::create_dir_all(&place).map_err(|error| GlobalError::io("create", &place, error))?;
            let sink = Arc::new(Parts::new(Arc::clone(&plan), place.clone()));
            match self.runtime.block_on(self.submit(sink, tasks)) {
                Ok(parts) => break parts.into_iter().map(move |(file, rows)| (place.join(file), rows)),
                Err(_) if attempt < ATTEMPTS => attempt += 1,
                Err(message) => return Err(fault(format!("{message} ({ATTEMPTS} attempts)"))),
            }
        };
        for (file, rows) in parts {
            conserve(relation, columns::count(&file)?, rows, "were written by its task")?;
            made.files.push(file);
            made.rows += rows;
        }
        Ok(made)
    }

    /// Hands over the rows of a relation, in no order.
    ///
    /// # Errors
    /// When a file cannot be read, or there are not as many rows as were counted.
    pub fn read<R: Record>(
        &self,
        table: &Table,
        see: &mut dyn FnMut(R) -> Result<(), GlobalError>,
    ) -> Result<(), GlobalError> {
        let mut found = 0;
        for file in &table.files {
            found += columns::read(file, see)?;
        }
        conserve(table.relation, found, table.rows, "were counted")
    }

    /// Plans are made before they are submitted, which leaves no place for Ballista's adaptive planning; it is off all the
    /// same. A sort needs room for its merge and for some batches of each run that it has spilled: a small memory has
    /// small ones.
    fn config(&self, tasks: usize) -> SessionConfig {
        let mut config = SessionConfig::new_with_ballista()
            .with_target_partitions(tasks)
            .with_ballista_adaptive_query_planner(false)
            .with_ballista_physical_extension_codec(Arc::new(Codec::default()));
        let execution = &mut config.options_mut().execution;
        let room = usize::try_from(self.task_memory / 16).unwrap_or(usize::MAX);
        execution.sort_spill_reservation_bytes = execution.sort_spill_reservation_bytes.min(room);
        let rows = (self.task_memory / BATCHES / ROW).clamp(FEWEST_ROWS, MOST_ROWS) as usize;
        config.with_batch_size(rows)
    }

    /// Names and rows of the parts that the tasks have written.
    async fn submit(&self, plan: Arc<Parts>, tasks: usize) -> Result<Vec<(String, u64)>, String> {
        let config = self.config(tasks);
        let mut told = execute_physical_plan::<PhysicalPlanNode>(
            format!("http://{}", self.address),
            &config.ballista_config(),
            plan,
            &Codec::default(),
            self.session.clone(),
            config,
        )
        .await
        .map_err(|error| error.to_string())?;
        let mut parts = Vec::new();
        while let Some(batch) = told.next().await {
            let batch = batch.map_err(|error| error.to_string())?;
            parts.extend(Parts::parse(&batch).ok_or("its tasks said something else than names and counts")?);
        }
        Ok(parts)
    }
}

/// Of one submitting process.
fn session() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    format!("triax-{:016x}", RandomState::new().hash_one(()))
}

async fn plan(
    sql: &str,
    name: &str,
    table: &Table,
    config: SessionConfig,
) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
    let context = SessionContext::new_with_config(config);
    let urls: Vec<String> = table.files.iter().map(|path| url(path)).collect();
    let rows = context.read_parquet(urls, ParquetReadOptions::default()).await?;
    context.register_table(name, rows.into_view())?;
    context.sql(sql).await?.create_physical_plan().await
}

/// A path as a URL, in which no character means a pattern.
fn url(path: &Path) -> String {
    let mut url = "file://".to_owned();
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(url, "%{byte:02X}");
        }
    }
    url
}
