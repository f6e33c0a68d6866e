//! Workloads as criterion benches.

use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput};
use xdiff_benches::workload::{Prepared, Workload};
use xdiff_examples::tune_process;

/// Runs those workloads that the command line asks for. Rates count floating-point operations as
/// elements, or bytes where there are none.
pub(crate) fn run(workloads: Vec<Workload>) {
    tune_process();
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    for workload in workloads {
        bench(&mut criterion, &workload);
    }
    criterion.final_summary();
}

fn bench(criterion: &mut Criterion, workload: &Workload) {
    let (group, name) = workload.name.split_once('/').unwrap_or((&workload.name, "run"));
    let mut group = criterion.benchmark_group(group);
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(match workload.flops {
        0 => Throughput::Bytes(workload.bytes),
        flops => Throughput::Elements(flops),
    });
    let mut prepared = None;
    group.bench_function(name, |bencher| {
        // Called for each sample, and not at all when the name is not asked for.
        let work = prepared.get_or_insert_with(|| {
            workload.prepare().unwrap_or_else(|error| panic!("{}: {error}", workload.name))
        });
        bencher.iter_custom(|runs| (0..runs).map(|_| time(work)).sum());
    });
    group.finish();
}

fn time(work: &mut Prepared) -> Duration {
    (work.run)().unwrap_or_else(|error| panic!("a run failed: {error}"))
}
