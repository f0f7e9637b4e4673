//! The few MPI calls in use: messages of bytes on the world communicator, begun and tested by one thread.

use super::neighbours::Process;
use mpi::ffi;
use mpi::topology::Communicator as _;
use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use triax_tensor::HostMemory;

/// MPI as the thread that initialised it sees it; finalised on drop.
pub(super) struct Port {
    _universe: mpi::environment::Universe,
    pub(super) rank: usize,
    pub(super) world: usize,
    /// Every rank's process, in their order.
    pub(super) processes: Vec<Process>,
    /// The library's name and version.
    pub(super) library: String,
    /// Not for other threads.
    _thread: PhantomData<*const ()>,
}

/// What MPI says about a call that failed.
#[derive(Debug)]
pub(super) struct MpiError(pub(super) String);

/// The memory of a message: owned by the request until it is finished.
pub(super) enum Buffer {
    Bytes(Vec<u8>),
    Floats(Vec<f32>),
    /// `bytes` bytes from `offset` on.
    Host {
        memory: HostMemory,
        offset: usize,
        bytes: usize,
    },
}

impl Buffer {
    fn pointer(&mut self) -> *mut c_void {
        match self {
            Self::Bytes(bytes) => bytes.as_mut_ptr().cast(),
            Self::Floats(floats) => floats.as_mut_ptr().cast(),
            Self::Host { memory, offset, bytes } => {
                assert!(*offset + *bytes <= memory.bytes(), "a message inside its view");
                memory.pointer().wrapping_add(*offset).cast()
            }
        }
    }

    fn len(&self) -> c_int {
        let bytes = match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Floats(floats) => size_of_val(&floats[..]),
            Self::Host { bytes, .. } => *bytes,
        };
        c_int::try_from(bytes).expect("messages are cut to segments, and host bytes are checked")
    }
}

/// A message under way. Leaked, with its memory, when it is dropped unfinished: MPI may still access it.
pub(super) struct Request {
    request: ffi::MPI_Request,
    buffer: Option<Buffer>,
}

impl Drop for Request {
    fn drop(&mut self) {
        std::mem::forget(self.buffer.take());
    }
}

impl Port {
    /// Initialises MPI; `None` when this process has done so before.
    pub(super) fn open() -> Option<Self> {
        let (universe, _) = mpi::initialize_with_threading(mpi::Threading::Funneled)?;
        let communicator = universe.world();
        let (rank, world) = (communicator.rank() as usize, communicator.size() as usize);
        // SAFETY: MPI is initialised; both are its constants. Errors are returned from now on.
        unsafe { ffi::MPI_Comm_set_errhandler(ffi::RSMPI_COMM_WORLD, ffi::RSMPI_ERRORS_RETURN) };
        let library = mpi::environment::library_version().unwrap_or_default();
        let library = library.split([',', '\n']).next().unwrap_or_default().trim().to_owned();
        let processes = all_processes(world)?;
        Some(Self { _universe: universe, rank, world, processes, library, _thread: PhantomData })
    }

    /// Begins to send the buffer, whose memory nobody writes until the request is finished.
    pub(super) fn send(&self, to: usize, tag: i32, mut buffer: Buffer) -> Result<Request, MpiError> {
        let mut request = MaybeUninit::uninit();
        let (pointer, len) = (buffer.pointer(), buffer.len());
        // SAFETY: the pointer is valid for `len` bytes, and stays so while the request owns the buffer.
        check(unsafe {
            ffi::MPI_Isend(
                pointer,
                len,
                ffi::RSMPI_UINT8_T,
                to as c_int,
                tag,
                ffi::RSMPI_COMM_WORLD,
                request.as_mut_ptr(),
            )
        })?;
        // SAFETY: MPI has written the request.
        Ok(Request { request: unsafe { request.assume_init() }, buffer: Some(buffer) })
    }

    /// Begins to receive into the buffer, whose memory nobody accesses until the request is finished.
    pub(super) fn receive(&self, from: usize, tag: i32, mut buffer: Buffer) -> Result<Request, MpiError> {
        let mut request = MaybeUninit::uninit();
        let (pointer, len) = (buffer.pointer(), buffer.len());
        // SAFETY: as in `send`.
        check(unsafe {
            ffi::MPI_Irecv(
                pointer,
                len,
                ffi::RSMPI_UINT8_T,
                from as c_int,
                tag,
                ffi::RSMPI_COMM_WORLD,
                request.as_mut_ptr(),
            )
        })?;
        // SAFETY: MPI has written the request.
        Ok(Request { request: unsafe { request.assume_init() }, buffer: Some(buffer) })
    }

    /// The buffer, when the message is finished.
    pub(super) fn test(&self, request: &mut Request) -> Result<Option<Buffer>, MpiError> {
        let mut done: c_int = 0;
        // SAFETY: the request is one that MPI made and has not yet finished.
        check(unsafe { ffi::MPI_Test(&mut request.request, &mut done, ffi::RSMPI_STATUS_IGNORE) })?;
        Ok(if done != 0 { request.buffer.take() } else { None })
    }

    /// A message with this tag that has arrived from anybody.
    pub(super) fn arrived(&self, tag: i32) -> Result<Option<(usize, Vec<u8>)>, MpiError> {
        let mut there: c_int = 0;
        let mut status = MaybeUninit::<ffi::MPI_Status>::zeroed();
        // SAFETY: both results are written by MPI.
        check(unsafe {
            ffi::MPI_Iprobe(
                ffi::RSMPI_ANY_SOURCE,
                tag,
                ffi::RSMPI_COMM_WORLD,
                &mut there,
                status.as_mut_ptr(),
            )
        })?;
        if there == 0 {
            return Ok(None);
        }
        let mut len: c_int = 0;
        // SAFETY: MPI has written the status, a plain structure, of the message.
        let source = unsafe { status.assume_init() }.MPI_SOURCE;
        // SAFETY: as above.
        check(unsafe { ffi::MPI_Get_count(status.as_ptr(), ffi::RSMPI_UINT8_T, &mut len) })?;
        let mut bytes = vec![0u8; len as usize];
        // SAFETY: the buffer has the length of the message, which only this thread could receive.
        check(unsafe {
            ffi::MPI_Recv(
                bytes.as_mut_ptr().cast(),
                len,
                ffi::RSMPI_UINT8_T,
                source,
                tag,
                ffi::RSMPI_COMM_WORLD,
                ffi::RSMPI_STATUS_IGNORE,
            )
        })?;
        Ok(Some((source as usize, bytes)))
    }

    /// Leaves MPI as it is: to finalise it would wait for ranks that may never come.
    pub(super) fn abandon(self) {
        std::mem::forget(self);
    }
}

/// Tells every rank's process to every rank.
fn all_processes(world: usize) -> Option<Vec<Process>> {
    const WORDS: usize = 3;
    let mine = Process::mine().to_words();
    let mut all = vec![0u64; WORDS * world];
    let bytes = size_of_val(&mine) as c_int;
    // SAFETY: MPI is initialised; it reads the bytes of `mine` and writes as many for each rank of the world.
    let code = unsafe {
        ffi::MPI_Allgather(
            mine.as_ptr().cast(),
            bytes,
            ffi::RSMPI_UINT8_T,
            all.as_mut_ptr().cast(),
            bytes,
            ffi::RSMPI_UINT8_T,
            ffi::RSMPI_COMM_WORLD,
        )
    };
    check(code).ok()?;
    Some(all.as_chunks::<WORDS>().0.iter().map(|words| Process::from_words(*words)).collect())
}

fn check(code: c_int) -> Result<(), MpiError> {
    if code == ffi::MPI_SUCCESS as c_int {
        return Ok(());
    }
    let mut text = [0u8; ffi::MPI_MAX_ERROR_STRING as usize + 1];
    let mut len: c_int = 0;
    // SAFETY: the buffer has the length that MPI asks for.
    unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr().cast(), &mut len) };
    let text = &text[..(len as usize).min(text.len())];
    Err(MpiError(String::from_utf8_lossy(text).replace('\n', " ")))
}
