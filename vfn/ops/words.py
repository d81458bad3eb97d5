from vfn.ops._types import (
    Ending,
    FixedVarType,
    Grid,
    LossType,
    OutType,
    Schedule,
    VarType,
    check_choice,
)
