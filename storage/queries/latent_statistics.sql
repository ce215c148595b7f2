-- How often, how strongly and where each latent fires, per group of rows. A row without an entry is a latent that is off.
-- Counts and sums: those of several shards add up to those of all, however the rows are dealt out.
with grouped as (
    select rows.position, rows.row,
           coalesce(groups.type, 'general') as type,
           coalesce(groups.label, 'general') as label,
           coalesce(groups.half, 'fit') as half
    from rows left join groups using (entity)
    where groups.entity is not null or rows.position = 'general'
),
sizes as (
    select position, type, label, half, count(*) as count from grouped group by all
),
firing as (
    select active.site, active.latent, grouped.position, grouped.type, grouped.label, grouped.half,
           count(*) as fired, sum(active.value) as sum, sum(active.value * active.value) as sum_squares
    from active join grouped using (row)
    group by all
)
select firing.site, firing.position, firing.latent, firing.type, firing.label as "group", firing.half,
       sizes.count, firing.fired, firing.sum, firing.sum_squares
from firing join sizes using (position, type, label, half)
order by all
