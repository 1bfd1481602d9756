# SPDX-License-Identifier: GPL-2.0-only
"""Functions that a report blames only if it shows no other: what prints reports, what leads there, and
helpers with thousands of callers.

They are listed as families, since names come and go with every release. What is under test (VMAs, page
tables, the maple tree, procfs) is in no family.
"""

from __future__ import annotations

import re

from orchestrator.splat import formats

#: Matched against the whole name, without compiler suffix and leading underscores.
_FAMILIES = (
    # what prints reports, and what leads there
    r" dump_(?:stack|backtrace).* show_(?:stack|regs|trace).* unwind_.* stack_trace_.* save_stack.*"
    r" \w*kernel_text_address is_(?:bpf|module)_text_address orc_(?:\w+_)?find"
    r" arch_stack_walk walk_stackframe stack_depot_.* print_.* check_panic_on_warn"
    r" (?:nmi_|v)?panic panic_(?:bad|blink|force|if|on|other|print|reset|saved|smp)\w*"
    r" panic_(?:trigger|try)\w*"
    r" warn(?:_.*)? report_.* die(?:_.*)? oops_.* nmi_.* v?printk.* vprintk.* rcu_dump_.* stackleak_.*"
    r" k[acm]san_.* (?:hw)?asan_.* m?tsan_.* msan_.* kfence_.* ubsan_.* check_memory_region.*"
    r" sanitizer_cov_.* (?:read|write)_(?:once|word_at)_\w+ kmemleak_.* create_object \w*assertfail assfail"
    r" spin_(?:bug|dump) rwlock_bug stack_chk_fail ref_tracker_.* fortify_.* usercopy_.* check_object_size"
    r" check_heap_object bad_page(?:_reason)? free_page_is_bad check_new_pages? dump_page \w+fs_panic"
    r" should_fail.* fail_dump \w*cfi_\w*(?:fail|handler|brk)\w* \w*trigger\w*_backtrace"
    r" (?:mmap|vma)_assert_.* assert_(?:spin|raw)_.* debug_(?:print_object|check_no_obj_freed|object_.*)"
    r" debug_(?:hrtimer|timer|work|rcu_head)_\w+ (?:timer|work)_is_static_object"
    # tracing
    r" (?:perf_)?trace_(?:lock|(?:hard|soft)irqs|event_raw|preempt)\w* perf_trace_.* traceiter_\w+"
    r" perf_tp_event"
    # exceptions
    r" (?:handle|fixup)_bug (?:\w+_)?(?:bug|brk)_handler do_page_fault (?:__)?bad_area.* no_context"
    r" (?:do_|spurious_)?(?:kern|user|kernel)_addr_fault page_fault_oops do_kernel_fault"
    r" do_(?:translation_fault|DataAbort|PrefetchAbort|undefinstr|bad) fixup_exception"
    r" ex_handler_.* search_(?:exception|extable).* program_check_\w+ dabt_svc irq_svc und_svc"
    # entry and interrupts
    r" entry_.* ret_from_.* ret_fast_syscall do_syscall_.* syscall_.* irq(?:entry)?_(?:enter|exit).*"
    r" call_on_.*stack.* (?:do|invoke)_softirq.* handle_softirqs"
    # locking
    r" lock_(?:acquire|release|is_held|downgrade|set_class|pin|unpin).* lockdep_.* debug_show_\w*locks.*"
    r" debug_(?:check_no_locks|lockdep|locks_off|spin|rt_mutex|mutex).* validate_chain"
    r" mark_(?:lock|usage|held).*"
    r" check_(?:prev|noncircular|deadlock|irq_usage|wait_context|usage|flags|unmap|preemption_disabled).*"
    r" (?:register|look_up)_lock_class.* assign_lock_key valid_state"
    r" (?:do_|arch_|virt_|rt_|bit_|native_)*(?:raw_)*(?:spin|read|write)_(?:try|un)?lock.*"
    r" (?:native_|pv_)?queued_.* lock_text_start rcu_read_(?:un)?lock.* srcu_read_.* rcu_is_watching"
    r" rcu_barrier.* (?:rt_|ww_|rtlock_)?(?:rt_)?mutex_.* (?:percpu_)?(?:down|up)(?:_.*)?"
    r" (?:percpu_)?rwsem_.* ldsem_.* rtlock_.* osq_.* local_lock.* \w+_(?:read|write)_(?:un|try)?lock\w*"
    r" lock_sock.* (?:might|cant)_(?:sleep|fault|resched|alloc).* local_bh_.*"
    r" (?:task_|this_|raw_)?(?:spin_)?rq_(?:un)?lock.* call_rwsem_.* console_lock console_trylock.*"
    r" (?:un)?lock_(?:page|folio).* folio_(?:try|un)?lock.* lock_timer_base preempt_.*"
    r" debug_smp_processor_id this_cpu_preempt_check fs_reclaim_.*"
    # scheduling and waiting
    r" (?:io_|freezable_)?schedule(?:_timeout.*|_bug|_preempt_.*|_debug|_hrtimeout.*)? cond_resched.*"
    r" wait_(?:for_|on_|woken|rcu_gp|event).* do_wait_(?:for_common|intr)\w* bit_wait.* out_of_line_wait.*"
    r" folio_wait_.* do_read_cache_.* (?:filemap_)?fdatawait_.* switch_to\w* context_switch"
    r" finish_wait wake_up(?!_new).* try_to_wake_up (?:default|autoremove)_wake_.* prepare_to_wait.*"
    r" swait.* complete(?:_all)? complete_with_flags rcu_note_context_switch [mu]sleep.*"
    r" kthread_(?:stop|park)"
    # memory
    r" k[mzcv]*alloc.* kv?[mz]alloc.* kv?free(?:_.*)? v[mz]?alloc.* vfree vunmap devm_k\w+ mempool_\w+"
    r" kmem_cache_(?!destroy|create).* slab_.* cache_alloc.* new_slab allocate_slab fallback_alloc"
    r" cache_grow_begin alloc_(?:frozen_)?pages?.* folio_alloc.* get_free_pages? free_large_kmalloc"
    r" free_pages(?:_exact|_nolock|_ok|_prepare)? free_(?:one_page|pcppages\w*|frozen_pages\w*|unref_\w+)"
    r" get_page_from_freelist post_alloc_hook prep_new_page page_pool_alloc.* alloc_slab_\w+"
    r" free_to_partial_list (?:free|alloc)_(?:debug_processing|consistency_checks) on_freelist object_err"
    r" alloc_(?:single_)?from_(?:new_slab|partial|pcs\w*) get_(?:from_)?(?:any_)?partial\w* free_to_pcs\w*"
    r" (?:pre|re)fill_(?:sheaf|objects)\w* pcs_\w+ discard_slab free_slab"
    r" check_(?:object|slab|bytes\w*|pad_bytes) init_object pcpu_.*alloc.* alloc_percpu.* krealloc.*"
    r" kmemdup.* kstr.*dup.* (?:get|put|clear)_user(?:_(?:\d|no|asm)\w*)? \w*copy_(?:to|from|mc)_.*"
    r" copy_user_.* copy_page copy(?:in|out) copy_page_(?:to|from)_iter.* instrument_\w+"
    r" simple_copy_to_iter truncate_inode_pages.* find_(?:lock|get)_(?:entries|pages).*"
    # strings and numbers
    r" (?:pi_)?mem(?:cpy|set|move|cmp|chr|scan|dup).* bcmp str[a-z]{1,6} (?:sized_)?str\w+_(?:pad|user).*"
    r" sized_str.* v?s?c?n?(?:printf|scanf) k?v?asprintf string(?:_nocheck)? pointer va_format widen_string"
    r" check_pointer.* dev_(?:printk|vprintk|info|notice|warn|err|crit|alert|emerg).* crc\w* csum_\w+"
    r" do_csum jhash.* siphash.* hweight\w+ (?:list_)?sort(?:_r)? bsearch bitmap_.*"
    r" (?:arch_)?(?:test_and_|set_|clear_|change_|test_|find_)\w*bit\w*"
    # reference counts and data structures
    r" (?:arch_|raw_)?atomic(?:64)?_.* refcount_.* kref_.* lockref_.* percpu_ref_.* list_.* hlist_.* rb_.*"
    r" xas_.* rht_\w+ klist_.* id[ar]_(?:alloc|free|remove).* seqprop_.*"
    # deferred work
    r" (?:add|mod|del)_timer.* try_to_del_timer.* timer_(?:delete|shutdown).* init_timer.*"
    r" hrtimer_(?:init|setup).* (?:start_)?flush_work.* (?:drain|destroy)_workqueue insert_work"
    r" queue_(?:delayed_)?work.* cancel_(?:delayed_)?work.* try_to_grab_pending call_rcu.*"
    r" kv?free_(?:call_)?rcu.*"
    # objects of the driver model and of filesystems, their buses and interfaces
    r" kobject_.* add_uevent_var get_device_parent dpm_sysfs_.* devres_release_all device_for_each_child"
    r" device_(?:add|del|release|destroy|register|unregister|initialize|create\w*|remove_file)"
    r" (?:get|put)_device (?:proc|sysfs|debugfs)_(?:create|remove|warn|register|mkdir)\w* remove_proc_\w+"
    r" hwrng_unregister rollback_registered.* unregister_netdev\w* unregister_client i2c_del_adapter"
    r" tty_unregister_device usb_(?:kill|submit|unlink|hcd_submit|hcd_unlink)_\w*urbs? usb_start_wait_urb"
    r" usb_(?:control|bulk)_msg.* (?:inc|set|clear|drop)_nlink ihold iput(?:_.*)?"
    r" (?:fast_)?d(?:get|put)(?:_.*)? mark_buffer_dirty skb_(?:panic|over_panic|under_panic|put|push)"
    r" kfree_skb.* raw_(?:read|write)[bwlq] (?:read|write)[bwlq](?:_relaxed)? io(?:read|write)\d\w*"
    r" logic_(?:in|out)[bwl]"
    # what Rust goes through to report
    r" rust_helper_BUG .*rust_begin_unwind core::panicking::.* core::result::unwrap_failed"
    r" core::option::(?:unwrap|expect)_failed"
)
PLUMBING = re.compile("|".join([*_FAMILIES.split(), *formats.plumbing()]))
