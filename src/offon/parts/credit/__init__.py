"""Credits: how signals become the advantage column. Declared here, computed by pure functions of `maths.credit`."""

from offon.parts.credit.base import Chain, Credit
from offon.parts.credit.group import GroupMeanStd, group_mean_std
from offon.parts.credit.teacher import TeacherLogRatio, teacher_logratio

__all__ = ["Chain", "Credit", "GroupMeanStd", "TeacherLogRatio", "group_mean_std", "teacher_logratio"]
