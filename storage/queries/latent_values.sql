-- What each chosen latent is worth on every row of its position, known and unknown entities of one half; 0 where it is off.
with members as (
    select rows.row, rows.position, groups.label from rows join groups using (entity) where groups.half = ?
)
select chosen.site, chosen.latent, members.label, coalesce(active.value, 0) as value
from chosen join members using (position) left join active using (site, latent, row)
order by chosen.site, chosen.latent, members.row
