#include "go_asm.h"
#include "textflag.h"

#define SYS_rt_sigprocmask 14
#define SYS_exit_group 231
#define SYS_clone3 435
#define SIG_SETMASK 2

// func cloneAndCall(args *cloneArgs, size uintptr, list *call, count uintptr, mask *uint64, out *outcome) (child uintptr, errno syscall.Errno)
//
// The new process shares the stack with the old one, which goes on from here when it has
// gone, or beside it: so it must neither write there nor read.
TEXT ·cloneAndCall(SB), NOSPLIT, $0-64
	MOVQ	args+0(FP), DI
	MOVQ	size+8(FP), SI
	MOVQ	list+16(FP), R12
	MOVQ	count+24(FP), R13
	MOVQ	mask+32(FP), R14
	MOVQ	out+40(FP), R15
	MOVQ	$SYS_clone3, AX
	SYSCALL
	CMPQ	AX, $0
	JEQ	child
	CMPQ	AX, $-4095
	JCC	failed
	MOVQ	AX, child+48(FP)
	MOVQ	$0, errno+56(FP)
	RET

failed:
	NEGQ	AX
	MOVQ	$0, child+48(FP)
	MOVQ	AX, errno+56(FP)
	RET

child:
	MOVQ	$SIG_SETMASK, DI
	MOVQ	R14, SI
	MOVQ	$0, DX
	MOVQ	$8, R10
	MOVQ	$SYS_rt_sigprocmask, AX
	SYSCALL
	MOVQ	$0, BX

next:
	MOVQ	(call_args+0)(R12), DI
	MOVQ	(call_args+8)(R12), SI
	MOVQ	(call_args+16)(R12), DX
	MOVQ	(call_args+24)(R12), R10
	MOVQ	(call_args+32)(R12), R8
	MOVQ	$0, R9
	MOVQ	call_trap(R12), AX
	SYSCALL
	CMPQ	AX, $-4095
	JCC	end
	ADDQ	$call__size, R12
	INCQ	BX
	CMPQ	BX, R13
	JCS	next
	MOVQ	$0, AX

end:
	NEGQ	AX
	MOVQ	BX, outcome_call(R15)
	MOVQ	AX, outcome_errno(R15)
	MOVB	$1, outcome_failed(R15)
	MOVQ	$125, DI
	MOVQ	$SYS_exit_group, AX
	SYSCALL
	INT	$3
