//! Which part of a run this process does: `rank` of `world` does the shards whose number is `rank` modulo `world`.

use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub rank: u32,
    pub world: u32,
    /// How long to wait for the other ranks while none of them finishes anything.
    pub patience: Duration,
}

impl Place {
    /// The whole run in this process.
    pub const WHOLE: Self = Self { rank: 0, world: 1, patience: Duration::from_secs(3600) };

    /// From the command line, or else from what a launcher has set: a Slurm array, Slurm tasks, a Kubernetes indexed
    /// job, or `RANK` and `WORLD_SIZE`.
    ///
    /// # Errors
    /// When only half of it is known, or rank is not below world.
    pub fn find(
        rank: Option<u32>,
        world: Option<u32>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let number = |name: &str| variable(name).and_then(|value| value.trim().parse::<u32>().ok());
        let first = number("SLURM_ARRAY_TASK_MIN").unwrap_or(0);
        let launchers = [
            (
                number("SLURM_ARRAY_TASK_ID").and_then(|id| id.checked_sub(first)),
                number("SLURM_ARRAY_TASK_COUNT"),
            ),
            (number("SLURM_PROCID"), number("SLURM_NTASKS")),
            (number("JOB_COMPLETION_INDEX"), number("JOB_COMPLETIONS").or(world)),
            (number("RANK"), number("WORLD_SIZE")),
        ];
        let launched = launchers.into_iter().find_map(|(rank, world)| Some((rank?, world?)));
        let (rank, world) = match (rank, world, launched) {
            (Some(rank), Some(world), _) => (rank, world),
            (None, None, Some(found)) => found,
            (None, Some(world), Some((rank, _))) => (rank, world),
            (None, None, None) => return Ok(Self::WHOLE),
            (Some(_), None, _) => return Err("--rank needs --world, the number of processes".into()),
            (None, Some(1), None) => (0, 1),
            (None, Some(_), None) => {
                return Err(
                    "--world needs --rank, or a launcher that sets it (Slurm, Kubernetes indexed job)".into(),
                );
            }
        };
        if rank >= world {
            return Err(format!(
                "rank {rank} of {world}: ranks are counted from 0, the last is {}",
                world.max(1) - 1
            ));
        }
        Ok(Self { rank, world, ..Self::WHOLE })
    }

    pub(super) const fn has(&self, shard: u32) -> bool {
        shard % self.world == self.rank
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(rank: Option<u32>, world: Option<u32>, variables: &[(&str, &str)]) -> Result<(u32, u32), String> {
        let variable = |name: &str| {
            variables.iter().find(|(found, _)| *found == name).map(|(_, value)| (*value).to_owned())
        };
        Place::find(rank, world, variable).map(|place| (place.rank, place.world))
    }

    #[test]
    fn launchers_are_found() {
        let array =
            [("SLURM_ARRAY_TASK_ID", "5"), ("SLURM_ARRAY_TASK_MIN", "1"), ("SLURM_ARRAY_TASK_COUNT", "8")];
        assert_eq!(find(None, None, &array), Ok((4, 8)));
        assert_eq!(find(None, None, &[("SLURM_PROCID", "2"), ("SLURM_NTASKS", "3")]), Ok((2, 3)));
        assert_eq!(find(None, Some(4), &[("JOB_COMPLETION_INDEX", "3")]), Ok((3, 4)));
        assert_eq!(find(None, None, &[]), Ok((0, 1)));
        assert_eq!(find(Some(1), Some(2), &array), Ok((1, 2)));
    }

    #[test]
    fn half_a_place_is_refused() {
        assert!(find(Some(1), None, &[]).is_err());
        assert!(find(None, Some(2), &[]).is_err());
        assert!(find(Some(2), Some(2), &[]).unwrap_err().contains("the last is 1"));
    }
}
