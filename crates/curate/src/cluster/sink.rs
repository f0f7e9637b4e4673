//! The last node of every plan: each task writes its rows to a Parquet file of its own, and only the file's name and
//! number of rows go back. DataFusion's own sink would send all rows of a plan through one task.
//!
//! Files have names that no other attempt at the task has, so that a worker which was given up and writes on does no harm.

use super::columns::properties;
use ballista_core::serde::BallistaPhysicalExtensionCodec;
use datafusion::arrow::array::{RecordBatch, StringArray, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, ReplaceChildrenOptions,
};
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use futures_util::StreamExt as _;
use std::ffi::OsStr;
use std::hash::{BuildHasher as _, RandomState};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use triax_data::AtomicFile;

/// Writes its input to `folder`, one file a partition that has rows, and gives one row for each: name and count.
#[derive(Debug)]
pub(super) struct Parts {
    input: Arc<dyn ExecutionPlan>,
    folder: PathBuf,
    properties: Arc<PlanProperties>,
}

fn schema() -> SchemaRef {
    let fields = [("file", DataType::Utf8), ("rows", DataType::UInt64)];
    Arc::new(Schema::new(fields.map(|(name, kind)| Field::new(name, kind, false)).to_vec()))
}

impl Parts {
    pub(super) fn new(input: Arc<dyn ExecutionPlan>, folder: PathBuf) -> Self {
        let partitions = input.properties().partitioning.partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema()),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self { input, folder, properties: Arc::new(properties) }
    }

    /// What one of its rows says.
    pub(super) fn parse(batch: &RecordBatch) -> Option<Vec<(String, u64)>> {
        let files = batch.column(0).as_any().downcast_ref::<StringArray>()?;
        let rows = batch.column(1).as_any().downcast_ref::<UInt64Array>()?;
        Some(files.iter().flatten().map(str::to_owned).zip(rows.values().iter().copied()).collect())
    }
}

impl DisplayAs for Parts {
    fn fmt_as(&self, _: DisplayFormatType, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Parts: folder={}", self.folder.display())
    }
}

impl ExecutionPlan for Parts {
    fn name(&self) -> &'static str {
        "Parts"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let [input] = <[_; 1]>::try_from(children).map_err(|children| {
            DataFusionError::Internal(format!("Parts has one input, not {}", children.len()))
        })?;
        Ok(Arc::new(Self::new(input, self.folder.clone())))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options =
            ReplaceChildrenOptions::new(datafusion::physical_plan::ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = self.input.execute(partition, context)?;
        let written = write(rows, self.folder.clone());
        let stream = futures_util::stream::once(written);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema(), stream)))
    }
}

/// Input and output, which Ballista tries again.
fn disk(error: impl std::error::Error + Send + Sync + 'static) -> DataFusionError {
    DataFusionError::IoError(std::io::Error::other(error))
}

async fn write(mut rows: SendableRecordBatchStream, folder: PathBuf) -> Result<RecordBatch> {
    // The state is the operating system's randomness, which no other process has.
    let name = format!("{:016x}{:08x}.parquet", RandomState::new().hash_one(()), std::process::id());
    let (mut writer, mut count) = (None, 0);
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        if batch.num_rows() == 0 {
            continue;
        }
        if writer.is_none() {
            // Without the folder the plan was given up: creating it again would leave rubbish behind.
            if !folder.is_dir() {
                return Err(DataFusionError::Execution(format!(
                    "{} is not there: coordinator, workers and the command must see one output folder",
                    folder.display()
                )));
            }
            let file = AtomicFile::create(&folder.join(&name)).map_err(disk)?;
            writer = Some(ArrowWriter::try_new(file, batch.schema(), Some(properties()))?);
        }
        if let Some(writer) = &mut writer {
            writer.write(&batch)?;
        }
        count += batch.num_rows() as u64;
    }
    let Some(writer) = writer else {
        return Ok(RecordBatch::new_empty(schema()));
    };
    writer.into_inner()?.commit().map_err(disk)?;
    let files = Arc::new(StringArray::from_iter_values([name]));
    Ok(RecordBatch::try_new(schema(), vec![files, Arc::new(UInt64Array::from_iter_values([count]))])?)
}

/// [`Parts`] in plans between processes; the other nodes are Ballista's matter.
#[derive(Debug, Default)]
pub(super) struct Codec {
    others: BallistaPhysicalExtensionCodec,
}

/// No message of Ballista's begins so: its first byte would be a field of an unknown kind.
const HEAD: &[u8] = b"TRIAX-PARTS\0";

impl PhysicalExtensionCodec for Codec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (bytes.strip_prefix(HEAD), inputs) {
            (Some(folder), [input]) => {
                let folder = Path::new(OsStr::from_bytes(folder)).to_owned();
                Ok(Arc::new(Parts::new(Arc::clone(input), folder)))
            }
            _ => self.others.try_decode(bytes, inputs, context, converter),
        }
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        bytes: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        match node.downcast_ref::<Parts>() {
            Some(parts) => {
                bytes.extend_from_slice(HEAD);
                bytes.extend_from_slice(parts.folder.as_os_str().as_bytes());
                Ok(())
            }
            None => self.others.try_encode(node, bytes, converter),
        }
    }
}
