# The demo's analysis: survival of patients with advanced lung cancer.
#
#   Rscript --vanilla analysis.R DATA RESULTS
#
# It reads DATA/lung.csv, compares the sexes by Kaplan-Meier curves and a
# log-rank test, fits a Cox model on sex, age and ECOG performance score, and
# writes three files into RESULTS, which must exist:
#
#   survival.csv   both Kaplan-Meier curves, 6 decimals
#   cox.txt        the Cox model and the log-rank test, 6 decimals
#   survival.png   a plot of the curves
#
# The files hold no date, host name or path: the same data gives the same bytes
# on the same kind of processor. It knows nothing of volumes or of Cloister.

fail <- function(...) {
  message("analysis: ", ...)
  quit(save = "no", status = 1)
}

args <- commandArgs(trailingOnly = TRUE)
if (length(args) != 2) fail("usage: analysis.R DATA RESULTS")
source_file <- file.path(args[1], "lung.csv")
if (!file.exists(source_file)) fail(source_file, " is not there")
if (!dir.exists(args[2])) fail("the results directory ", args[2], " is not there")

suppressPackageStartupMessages(library(survival))

lung <- read.csv(source_file, strip.white = TRUE)
needed <- c("time", "status", "age", "sex", "ph.ecog")
missing <- setdiff(needed, names(lung))
if (length(missing) > 0) fail("lung.csv lacks the columns ", paste(missing, collapse = ", "))
if (!all(vapply(lung[needed], is.numeric, TRUE))) fail("lung.csv holds something that is not a number")
# Coded as in the original study: status 1 censored, 2 dead; sex 1 male, 2 female.
if (!all(lung$status %in% 1:2) || !all(lung$sex %in% 1:2)) fail("status and sex must be 1 or 2")
lung$sex <- factor(lung$sex, levels = 1:2, labels = c("male", "female"))

fixed <- function(x) formatC(x, digits = 6, format = "f")

# Kaplan-Meier.
km <- survfit(Surv(time, status == 2) ~ sex, data = lung, conf.type = "log-log")
s <- summary(km)
curve <- data.frame(sex = sub("^sex=", "", as.character(s$strata)), days = s$time,
  at_risk = s$n.risk, deaths = s$n.event,
  survival = fixed(s$surv), lower95 = fixed(s$lower), upper95 = fixed(s$upper))
write.csv(curve, file.path(args[2], "survival.csv"), row.names = FALSE, quote = FALSE, eol = "\n")

# Log-rank test and Cox model.
logrank <- survdiff(Surv(time, status == 2) ~ sex, data = lung)
cox <- coxph(Surv(time, status == 2) ~ sex + age + ph.ecog, data = lung, ties = "efron")
c_sum <- summary(cox)
rows <- data.frame(
  term = rownames(c_sum$coefficients),
  hazard_ratio = fixed(c_sum$conf.int[, "exp(coef)"]),
  lower95 = fixed(c_sum$conf.int[, "lower .95"]),
  upper95 = fixed(c_sum$conf.int[, "upper .95"]),
  z = fixed(c_sum$coefficients[, "z"]),
  p = fixed(c_sum$coefficients[, "Pr(>|z|)"]))
median_days <- summary(km)$table[, "median"]
text <- c(
  sprintf("patients %d, deaths %d", nrow(lung), sum(lung$status == 2)),
  sprintf("median survival: male %d days, female %d days", as.integer(median_days[1]), as.integer(median_days[2])),
  sprintf("log-rank test by sex: chi-squared %s, p %s", fixed(logrank$chisq),
    fixed(pchisq(logrank$chisq, 1, lower.tail = FALSE))),
  "",
  sprintf("Cox model, %d patients, %d deaths, concordance %s", cox$n, cox$nevent, fixed(c_sum$concordance[["C"]])),
  do.call(sprintf, c("%-10s %12s %10s %10s %10s %9s", as.list(names(rows)))),
  do.call(sprintf, c("%-10s %12s %10s %10s %10s %9s", unname(as.list(rows)))))
out <- file(file.path(args[2], "cox.txt"), "wb")
writeLines(text, out, sep = "\n")
close(out)

# The plot. The cairo device needs no X server.
png(file.path(args[2], "survival.png"), width = 900, height = 650, res = 110, type = "cairo", antialias = "gray")
par(mar = c(4.5, 4.5, 2.5, 1))
plot(km, col = c("#1b6ca8", "#c0392b"), lwd = 2, mark.time = TRUE, xlab = "days", ylab = "share alive",
  main = "Advanced lung cancer: survival by sex", las = 1)
legend("topright", inset = 0.02, legend = levels(lung$sex), col = c("#1b6ca8", "#c0392b"), lwd = 2, bty = "n")
invisible(dev.off())

cat(text[1:3], sep = "\n")
