//! What of a file need not be read: row groups and pages whose statistics leave out what is wanted.

use crate::{
    columns::{DEVICE, TIME, timestamp_type},
    filter::{Filter, TimeRange},
};
use arrow::{
    array::{Array, ArrayRef, AsArray},
    datatypes::{DataType, Field, TimestampMicrosecondType},
};
use parquet::{
    arrow::arrow_reader::{RowSelection, RowSelector, statistics::StatisticsConverter},
    errors::ParquetError,
    file::metadata::ParquetMetaData,
    schema::types::SchemaDescriptor,
};

/// What is left to read.
#[derive(Debug)]
pub(super) struct Pruned {
    pub(super) row_groups: Vec<usize>,
    /// Of the rows of these row groups; `None` is all.
    pub(super) selection: Option<RowSelection>,
}

/// Both columns are leaves of the same index as their column.
pub(super) fn prune(
    metadata: &ParquetMetaData,
    schema: &SchemaDescriptor,
    filter: &Filter,
) -> Result<Pruned, ParquetError> {
    let mut row_groups: Vec<usize> = (0..metadata.num_row_groups()).collect();
    if *filter == Filter::ALL {
        return Ok(Pruned { row_groups, selection: None });
    }
    let (device_field, time_field) =
        (Field::new("device", DataType::Utf8, false), Field::new("time", timestamp_type(), false));
    let device = StatisticsConverter::from_column_index(DEVICE, &device_field, schema)?;
    let time = StatisticsConverter::from_column_index(TIME, &time_field, schema)?;
    let groups = metadata.row_groups();
    let devices = (device.row_group_mins(groups)?, device.row_group_maxes(groups)?);
    let times = (time.row_group_mins(groups)?, time.row_group_maxes(groups)?);
    row_groups.retain(|&group| may_have_device(filter, &devices, group) && may_have_time(filter, &times, group));
    let (Some(column_index), Some(offset_index)) = (metadata.column_index(), metadata.offset_index()) else {
        return Ok(Pruned { row_groups, selection: None });
    };
    let rows = |converter: &StatisticsConverter<'_>| -> Result<Vec<usize>, ParquetError> {
        let counts = converter.data_page_row_counts(offset_index, groups, &row_groups)?;
        Ok(counts.map_or_else(Vec::new, |counts| counts.values().iter().map(|&count| count as usize).collect()))
    };
    let page_devices = (
        device.data_page_mins(column_index, offset_index, &row_groups)?,
        device.data_page_maxes(column_index, offset_index, &row_groups)?,
    );
    let page_times = (
        time.data_page_mins(column_index, offset_index, &row_groups)?,
        time.data_page_maxes(column_index, offset_index, &row_groups)?,
    );
    let of_devices = select(&rows(&device)?, |page| may_have_device(filter, &page_devices, page));
    let of_times = select(&rows(&time)?, |page| may_have_time(filter, &page_times, page));
    Ok(Pruned { row_groups, selection: Some(of_devices.intersection(&of_times)) })
}

fn select(rows: &[usize], is_wanted: impl Fn(usize) -> bool) -> RowSelection {
    let selector = |(page, &rows): (usize, &usize)| {
        if is_wanted(page) { RowSelector::select(rows) } else { RowSelector::skip(rows) }
    };
    rows.iter().enumerate().map(selector).collect::<Vec<_>>().into()
}

/// Unknown ends leave nothing out.
fn may_have_device(filter: &Filter, (mins, maxes): &(ArrayRef, ArrayRef), at: usize) -> bool {
    let (mins, maxes) = (mins.as_string::<i32>(), maxes.as_string::<i32>());
    if mins.is_null(at) || maxes.is_null(at) {
        return true;
    }
    filter.devices.overlaps(mins.value(at), maxes.value(at))
}

fn may_have_time(filter: &Filter, (mins, maxes): &(ArrayRef, ArrayRef), at: usize) -> bool {
    let of = |array: &ArrayRef| {
        let times = array.as_primitive::<TimestampMicrosecondType>();
        times.is_valid(at).then(|| times.value(at))
    };
    let (Some(min), Some(max)) = (of(mins), of(maxes)) else { return true };
    !filter.time.intersection(TimeRange::new(min, max)).is_empty()
}
