-- Slurm's job_submit/lua plugin for a cluster with secure nodes: sends --secure
-- jobs to the secure partition, gives them whole nodes, and refuses at
-- submission what is no sealed job by its shape.
--
-- It runs in slurmctld, which no secure node trusts: it is a convenience, and
-- nothing depends on it. Put it beside slurm.conf, with
--
--     JobSubmitPlugins=lua
--
-- If you have a job_submit.lua already, copy what is between the two lines of
-- dashes into it and call cloister_submit(job_desc) first.

-------------------------------------------------------------------------------
-- The partitions of secure nodes. The first is taken if the user names none.
local cloister_partitions = { "secure" }
-- Those of them whose nodes run sealed jobs only (node=dedicated).
local cloister_dedicated = { secure = true }

local cloister_option = "_SLURM_SPANK_OPTION_cloister_secure="
local cloister_opening = "\n: <<'CLOISTER-SEALED-JOB-1'\n-----BEGIN AGE ENCRYPTED FILE-----\n"
local cloister_end = "\n-----END SSH SIGNATURE-----\nCLOISTER-SEALED-JOB-1\n"

local function cloister_refuse(cause, next_line)
	slurm.log_user("cloister: refused in phase submit: " .. cause)
	slurm.log_user("cloister: next: " .. next_line)
	return slurm.ERROR
end

local function cloister_secure_given(job)
	for _, variable in pairs(job.spank_job_env or {}) do
		if string.find(variable, cloister_option, 1, true) then
			return true
		end
	end
	return false
end

-- The signature and all else are checked by sbatch itself and by the node.
local function cloister_sealed(script)
	return script ~= nil
		and string.sub(script, 1, 10) == "#!/bin/sh\n"
		and string.find(script, cloister_opening, 1, true) ~= nil
		and string.sub(script, -#cloister_end) == cloister_end
end

local function cloister_partition_of(name)
	for _, p in ipairs(cloister_partitions) do
		if p == name then
			return true
		end
	end
	return false
end

-- Returns slurm.SUCCESS, or slurm.ERROR after it told the user why.
function cloister_submit(job)
	local sealed = cloister_sealed(job.script)
	if not cloister_secure_given(job) then
		if sealed then
			return cloister_refuse("this job is sealed, and --secure was not given",
				"submit it with sbatch --secure")
		end
		for p in string.gmatch(job.partition or "", "[^,]+") do
			if cloister_dedicated[p] then
				return cloister_refuse("the nodes of partition " .. p .. " run sealed jobs only",
					"seal the script and submit it with sbatch --secure, or use another partition")
			end
		end
		return slurm.SUCCESS
	end
	if job.script == nil or job.script == "" then
		return cloister_refuse("only batch jobs can be sealed",
			"write a batch script, seal it, and submit it with sbatch --secure")
	end
	if not sealed then
		return cloister_refuse("this is an ordinary script, not a sealed job",
			"seal the script with cloister seal and submit the sealed job")
	end
	if job.partition == nil or job.partition == "" then
		job.partition = cloister_partitions[1]
	end
	for p in string.gmatch(job.partition, "[^,]+") do
		if not cloister_partition_of(p) then
			return cloister_refuse("the nodes of partition " .. p .. " run no cloister-noded, so they take no --secure job",
				"submit to the cluster's secure partition, " .. cloister_partitions[1])
		end
	end
	job.shared = 0 -- whole nodes, as --exclusive does
	return slurm.SUCCESS
end
-------------------------------------------------------------------------------

function slurm_job_submit(job_desc, _part_list, _submit_uid)
	return cloister_submit(job_desc)
end

function slurm_job_modify(_job_desc, _job_rec, _part_list, _modify_uid)
	return slurm.SUCCESS
end

return slurm.SUCCESS
